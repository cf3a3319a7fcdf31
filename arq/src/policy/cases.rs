//! The file of cases of `arq policy test`: messages, and what is expected of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arqon_policy::{Draft, Fault, FaultClass, Message, Rewrite, Verdict};
use base64::Engine;
use bytes::Bytes;
use serde::Deserialize;

use super::settings;
use crate::failure::{Doing, Failure, Result};

/// A case as it is run.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// What the instance is configured with.
    pub(super) config: Bytes,
    tenant: String,
    room: String,
    user: String,
    role: String,
    draft: Draft,
    pub(super) expect: Expect,
}

/// What a policy should say. Parts that are `None` may be anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Allow,
    Block {
        reason: Option<String>,
        contains: Option<String>,
    },
    Transform {
        payload: Option<Bytes>,
        headers: Option<BTreeMap<String, String>>,
    },
    Fault {
        class: Option<FaultClass>,
        contains: Option<String>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CasesFile {
    config: Option<toml::Value>,
    config_file: Option<PathBuf>,
    #[serde(rename = "case", default)]
    cases: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    config: Option<toml::Value>,
    config_file: Option<PathBuf>,
    tenant: Option<String>,
    room: Option<String>,
    user: Option<String>,
    role: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    payload: Option<String>,
    payload_base64: Option<String>,
    payload_file: Option<PathBuf>,
    repeat: Option<usize>,
    expect: String,
    reason: Option<String>,
    reason_contains: Option<String>,
    to_payload: Option<String>,
    to_payload_base64: Option<String>,
    to_headers: Option<BTreeMap<String, String>>,
    fault: Option<String>,
}

/// Longest payload that `repeat` may make: more than any tenant's limit.
const MAX_PAYLOAD: usize = 64 << 20;

/// Reads a file of cases. Paths in it are relative to it.
pub(super) fn read(file: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(file)
        .doing(format!("cannot read the cases {}", file.display()))
        .hint("`arq policy new` makes an example, `arq policy test --help` describes the file")?;
    let folder = file.parent().unwrap_or(Path::new(""));
    parse(&text, folder).doing(file.display())
}

/// The cases of this text.
fn parse(text: &str, folder: &Path) -> Result<Vec<Case>> {
    let file: CasesFile = toml::from_str(text).map_err(|error| {
        Failure::new(error.to_string().trim_end().to_owned()).hint(
            "each case is `[[case]]` with `payload` and `expect = \"allow\"`, \"block\", \"transform\" or \"fault\"",
        )
    })?;
    if file.cases.is_empty() {
        return Err(
            Failure::new("it holds no cases").hint("each case begins with a line `[[case]]`")
        );
    }
    let shared = config(file.config, file.config_file, folder)?.unwrap_or_default();
    file.cases
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            let name = entry
                .name
                .clone()
                .unwrap_or_else(|| format!("case {}", index + 1));
            entry
                .case(name.clone(), &shared, folder)
                .doing(format!("`{name}`"))
        })
        .collect()
}

fn config(
    value: Option<toml::Value>,
    file: Option<PathBuf>,
    folder: &Path,
) -> Result<Option<Bytes>> {
    match (value, file) {
        (Some(_), Some(_)) => Err(Failure::new("both `config` and `config_file` are given")),
        (Some(toml::Value::String(text)), None) => Ok(Some(text.into())),
        (Some(value), None) => Ok(Some(settings::from_toml(&value)?.into())),
        (None, Some(file)) => Ok(Some(settings::read(&folder.join(file))?.into())),
        (None, None) => Ok(None),
    }
}

impl Entry {
    fn case(self, name: String, shared: &Bytes, folder: &Path) -> Result<Case> {
        let expect = self.expect()?;
        let config = config(self.config, self.config_file, folder)?;
        let payload = match (self.payload, self.payload_base64, self.payload_file) {
            (Some(text), None, None) => text.into_bytes(),
            (None, Some(text), None) => decode(&text)?,
            (None, None, Some(file)) => {
                let file = folder.join(file);
                std::fs::read(&file).doing(format!("cannot read {}", file.display()))?
            }
            (None, None, None) => Vec::new(),
            _ => {
                return Err(Failure::new(
                    "only one of `payload`, `payload_base64` and `payload_file` may be given",
                ));
            }
        };
        let times = self.repeat.unwrap_or(1);
        if payload
            .len()
            .checked_mul(times)
            .is_none_or(|size| size > MAX_PAYLOAD)
        {
            return Err(Failure::new("`repeat` makes a payload of over 64 MiB"));
        }
        let or = |text: Option<String>, other: &str| text.unwrap_or_else(|| other.to_owned());
        Ok(Case {
            name,
            config: config.unwrap_or_else(|| shared.clone()),
            tenant: or(self.tenant, "acme"),
            room: or(self.room, "lobby"),
            user: or(self.user, "dev"),
            role: or(self.role, "user"),
            draft: Draft {
                headers: self.headers,
                payload: payload.repeat(times).into(),
            },
            expect,
        })
    }

    fn expect(&self) -> Result<Expect> {
        let is = self.expect.as_str();
        let only = |given: bool, key: &str, of: &[&str]| {
            if given && !of.contains(&is) {
                let of = of.join("\" or \"");
                return Err(Failure::new(format!(
                    "`{key}` is for `expect = \"{of}\"` only"
                )));
            }
            Ok(())
        };
        only(self.reason.is_some(), "reason", &["block"])?;
        only(
            self.reason_contains.is_some(),
            "reason_contains",
            &["block", "fault"],
        )?;
        only(self.to_payload.is_some(), "to_payload", &["transform"])?;
        only(
            self.to_payload_base64.is_some(),
            "to_payload_base64",
            &["transform"],
        )?;
        only(self.to_headers.is_some(), "to_headers", &["transform"])?;
        only(self.fault.is_some(), "fault", &["fault"])?;
        let contains = self.reason_contains.clone();
        Ok(match is {
            "allow" => Expect::Allow,
            "block" => Expect::Block {
                reason: self.reason.clone(),
                contains,
            },
            "transform" => Expect::Transform {
                payload: match (&self.to_payload, &self.to_payload_base64) {
                    (Some(text), None) => Some(text.clone().into()),
                    (None, Some(text)) => Some(decode(text)?.into()),
                    (None, None) => None,
                    _ => {
                        return Err(Failure::new(
                            "both `to_payload` and `to_payload_base64` are given",
                        ));
                    }
                },
                headers: self.to_headers.clone(),
            },
            "fault" => Expect::Fault {
                class: self.fault.as_deref().map(fault_class).transpose()?,
                contains,
            },
            other => {
                return Err(
                    Failure::new(format!("`{other}` is nothing that can be expected"))
                        .hint("write allow, block, transform or fault"),
                );
            }
        })
    }
}

fn decode(text: &str) -> Result<Vec<u8>> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .doing("a base64 text does not hold")
}

fn fault_class(text: &str) -> Result<FaultClass> {
    FaultClass::ALL
        .into_iter()
        .find(|class| class.as_str() == text)
        .ok_or_else(|| {
            let all: Vec<&str> = FaultClass::ALL.iter().map(|class| class.as_str()).collect();
            Failure::new(format!("`{text}` is no class of faults"))
                .hint(format!("write one of {}", all.join(", ")))
        })
}

impl Case {
    /// The message the policy is asked about.
    pub(super) fn message(&self) -> Message<'_> {
        Message {
            tenant: &self.tenant,
            room: &self.room,
            user: &self.user,
            role: &self.role,
            draft: &self.draft,
        }
    }

    /// Why what came is not what was expected; `None`: it is.
    pub(super) fn differs(&self, came: &Result<Verdict, Fault>) -> Option<String> {
        match (&self.expect, came) {
            (Expect::Allow, Ok(Verdict::Allow)) => None,
            (
                Expect::Block {
                    reason: wanted,
                    contains,
                },
                Ok(Verdict::Block(reason)),
            ) => text_differs(wanted.as_deref(), contains.as_deref(), reason),
            (Expect::Transform { payload, headers }, Ok(Verdict::Transform(rewrite))) => {
                self.rewrite_differs(payload.as_ref(), headers.as_ref(), rewrite)
            }
            (Expect::Fault { class, contains }, Err(fault)) => match class {
                Some(class) if *class != fault.class => {
                    Some(format!("expected the fault {class}, came {fault}"))
                }
                _ => text_differs(None, contains.as_deref(), &fault.detail),
            },
            (expect, came) => Some(format!("expected {}, came {}", expect.word(), told(came))),
        }
    }

    fn rewrite_differs(
        &self,
        payload: Option<&Bytes>,
        headers: Option<&BTreeMap<String, String>>,
        rewrite: &Rewrite,
    ) -> Option<String> {
        // What a change leaves out stays as it was.
        let after = rewrite.payload.as_ref().unwrap_or(&self.draft.payload);
        if let Some(wanted) = payload.filter(|wanted| *wanted != after) {
            return Some(format!(
                "expected the payload {}, came {}",
                quoted(wanted),
                quoted(after)
            ));
        }
        let after = rewrite.headers.as_ref().unwrap_or(&self.draft.headers);
        headers
            .filter(|wanted| *wanted != after)
            .map(|wanted| format!("expected the headers {wanted:?}, came {after:?}"))
    }
}

fn text_differs(wanted: Option<&str>, contains: Option<&str>, text: &str) -> Option<String> {
    if let Some(wanted) = wanted.filter(|wanted| *wanted != text) {
        return Some(format!("expected the reason {wanted:?}, came {text:?}"));
    }
    contains
        .filter(|part| !text.contains(*part))
        .map(|part| format!("expected {part:?} in the reason, came {text:?}"))
}

impl Expect {
    pub(super) fn word(&self) -> String {
        match self {
            Self::Allow => "allow".to_owned(),
            Self::Block { .. } => "block".to_owned(),
            Self::Transform { .. } => "transform".to_owned(),
            Self::Fault { class: None, .. } => "fault".to_owned(),
            Self::Fault {
                class: Some(class), ..
            } => format!("fault {class}"),
        }
    }
}

/// What came, in a word or two for tables.
pub(super) fn word(came: &Result<Verdict, Fault>) -> String {
    match came {
        Ok(Verdict::Allow) => "allow".to_owned(),
        Ok(Verdict::Block(_)) => "block".to_owned(),
        Ok(Verdict::Transform(_)) => "transform".to_owned(),
        Err(fault) => format!("fault {}", fault.class),
    }
}

/// What came, with its reason.
pub(super) fn told(came: &Result<Verdict, Fault>) -> String {
    match came {
        Ok(Verdict::Block(reason)) => format!("block {reason:?}"),
        Ok(Verdict::Transform(rewrite)) => match &rewrite.payload {
            Some(payload) => format!("transform to {}", quoted(payload)),
            None => "transform".to_owned(),
        },
        Ok(Verdict::Allow) => "allow".to_owned(),
        Err(fault) => format!("the fault {fault}"),
    }
}

/// The beginning of a payload, readable on a terminal.
fn quoted(bytes: &[u8]) -> String {
    const SHOWN: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    let more = if bytes.len() > SHOWN {
        format!("… ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    format!("{text:?}{more}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cases(text: &str) -> Result<Vec<Case>> {
        parse(text, Path::new("."))
    }

    fn one(text: &str) -> Case {
        cases(&format!("[[case]]\n{text}")).unwrap().remove(0)
    }

    #[test]
    fn a_file_of_cases_is_read() {
        let all = cases(
            r#"
[config]
words = ["malware"]
[[case]]
name = "clean"
payload = "hello"
expect = "allow"
[[case]]
payload = "ab"
repeat = 3
room = "public.hall"
headers = { lang = "en" }
config = "raw"
expect = "block"
reason_contains = "word"
"#,
        )
        .unwrap();
        assert_eq!(&all[0].config[..], br#"{"words":["malware"]}"#);
        assert_eq!(
            (all[0].name.as_str(), all[0].message().room),
            ("clean", "lobby")
        );
        assert_eq!(all[1].name, "case 2");
        assert_eq!(all[1].draft.payload, "ababab");
        assert_eq!(all[1].draft.headers["lang"], "en");
        assert_eq!(all[1].config, "raw");
        assert_eq!(all[1].message().room, "public.hall");
    }

    #[test]
    fn what_does_not_hold_is_named() {
        for (text, part) in [
            ("", "no cases"),
            ("[[case]]\npayload = 'a'", "expect"),
            ("[[case]]\nexpect = 'deny'", "`deny`"),
            ("[[case]]\nexpect = 'allow'\nreason = 'a'", "`reason`"),
            (
                "[[case]]\nexpect = 'block'\nto_payload = 'a'",
                "`to_payload`",
            ),
            ("[[case]]\nexpect = 'fault'\nfault = 'sad'", "`sad`"),
            (
                "[[case]]\nexpect = 'allow'\npayload = 'a'\npayload_base64 = 'YQ=='",
                "only one",
            ),
            ("[[case]]\nexpect = 'allow'\npayload_base64 = '!'", "base64"),
            (
                "[[case]]\nexpect = 'allow'\npayload = 'a'\nrepeat = 99999999999",
                "64 MiB",
            ),
            ("[[case]]\nexpect = 'allow'\npaylaod = 'a'", "paylaod"),
        ] {
            let failure = cases(text).unwrap_err();
            assert!(
                failure.message.contains(part),
                "{text}: {}",
                failure.message
            );
        }
    }

    #[test]
    fn verdicts_are_compared_with_what_is_expected() {
        let block = Ok(Verdict::Block("word malware".to_owned()));
        let trap = Err(Fault::new(FaultClass::Trap, "unreachable"));
        let change = |payload: &'static str| {
            Ok(Verdict::Transform(Rewrite {
                payload: Some(Bytes::from_static(payload.as_bytes())),
                headers: None,
            }))
        };
        for (text, came, holds) in [
            ("expect = 'allow'", Ok(Verdict::Allow), true),
            ("expect = 'allow'", block.clone(), false),
            ("expect = 'block'", block.clone(), true),
            ("expect = 'block'", trap.clone(), false),
            (
                "expect = 'block'\nreason = 'word malware'",
                block.clone(),
                true,
            ),
            ("expect = 'block'\nreason = 'word'", block.clone(), false),
            (
                "expect = 'block'\nreason_contains = 'word'",
                block.clone(),
                true,
            ),
            ("expect = 'block'\nreason_contains = 'virus'", block, false),
            ("expect = 'fault'", trap.clone(), true),
            ("expect = 'fault'\nfault = 'trap'", trap.clone(), true),
            ("expect = 'fault'\nfault = 'timeout'", trap.clone(), false),
            (
                "expect = 'fault'\nreason_contains = 'unreach'",
                trap.clone(),
                true,
            ),
            ("expect = 'fault'\nreason_contains = 'memory'", trap, false),
            ("expect = 'transform'", change("b"), true),
            ("expect = 'transform'\nto_payload = 'b'", change("b"), true),
            ("expect = 'transform'\nto_payload = 'c'", change("b"), false),
            // Headers that a change leaves out stay.
            (
                "expect = 'transform'\nheaders = {a = '1'}\nto_headers = {a = '1'}",
                change("b"),
                true,
            ),
            (
                "expect = 'transform'\nheaders = {a = '1'}\nto_headers = {}",
                change("b"),
                false,
            ),
        ] {
            let differs = one(text).differs(&came);
            assert_eq!(differs.is_none(), holds, "{text}: {differs:?}");
        }
    }
}
