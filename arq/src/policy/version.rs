//! Versions of a policy as they are typed and told.

use std::str::FromStr;

use arqon_proto::v1::{Policy, PolicyBinding, PolicyVersion};

use crate::failure::{Failure, Result};

/// A version as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    Newest,
    /// The one that is bound now.
    Current,
    Number(u32),
    /// The beginning of a digest.
    Digest(String),
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => return Ok(Self::Newest),
            "current" => return Ok(Self::Current),
            _ => {}
        }
        // Digests are told by twelve digits at least; a number of versions never has so many.
        let hexadecimal = text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hexadecimal && (8..=64).contains(&text.len()) {
            return Ok(Self::Digest(text.to_owned()));
        }
        match text.trim_start_matches('v').parse() {
            Ok(number) if number > 0 => Ok(Self::Number(number)),
            _ => Err(
                "write a number, at least 8 digits of a digest, `newest` or `current`".to_owned(),
            ),
        }
    }
}

impl Version {
    /// The version of a policy that this is.
    pub(super) fn find(
        &self,
        policy: &Policy,
        bound: Option<&PolicyBinding>,
    ) -> Result<PolicyVersion> {
        let versions = &policy.versions;
        let found: Vec<&PolicyVersion> = match self {
            Self::Newest => versions.first().into_iter().collect(),
            Self::Current => {
                let Some(bound) = bound else {
                    return Err(Failure::new(
                        "there is no such binding yet, so no current version",
                    )
                    .hint("--version newest is the default"));
                };
                versions
                    .iter()
                    .filter(|version| version.digest == bound.digest)
                    .collect()
            }
            Self::Number(number) => versions
                .iter()
                .filter(|version| version.number == *number)
                .collect(),
            Self::Digest(start) => versions
                .iter()
                .filter(|version| hex(&version.digest).starts_with(start))
                .collect(),
        };
        match found[..] {
            [version] => Ok(version.clone()),
            [] => Err(Failure::new(format!("{} has no such version", policy.name))
                .hint(format!("`arq policy versions {}` shows them", policy.name))),
            _ => Err(
                Failure::new(format!("several versions of {} begin so", policy.name))
                    .hint("give more of the digest"),
            ),
        }
    }
}

/// A digest as text.
pub(super) fn hex(digest: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy() -> Policy {
        let version = |number: u32, byte: u8| PolicyVersion {
            number,
            digest: vec![byte; 32].into(),
            ..PolicyVersion::default()
        };
        Policy {
            name: "words".to_owned(),
            versions: vec![version(3, 0xcc), version(2, 0xab), version(1, 0xaa)],
        }
    }

    #[test]
    fn a_version_is_found_as_it_is_typed() {
        let bound = PolicyBinding {
            digest: vec![0xab; 32].into(),
            ..PolicyBinding::default()
        };
        for (text, number) in [
            ("newest", 3),
            ("current", 2),
            ("1", 1),
            ("v2", 2),
            ("abababab", 2),
        ] {
            let version: Version = text.parse().unwrap();
            let found = version.find(&policy(), Some(&bound)).unwrap();
            assert_eq!(found.number, number, "{text}");
        }
        for text in ["4", "dddddddd"] {
            let version: Version = text.parse().unwrap();
            assert!(version.find(&policy(), None).is_err(), "{text}");
        }
        assert!(Version::Current.find(&policy(), None).is_err());
        for text in ["0", "", "latest", "-1", "abc"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
