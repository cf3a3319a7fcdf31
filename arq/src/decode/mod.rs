//! `arq decode`: a message of the wire as text.

mod wire;

use std::io::Read;
use std::path::PathBuf;

use arqon_proto::envelope;
use arqon_proto::v1::Envelope;
use base64::Engine;
use bytes::Bytes;
use clap::Args;
use prost::Message;

use crate::Globals;
use crate::failure::{Doing, Failure, Result};
use crate::frame_json;
use wire::Kind;

/// Show an Envelope (one frame of the protocol), or what Shield and Brain say, as text
#[derive(Debug, Args)]
pub(crate) struct Decode {
    /// The file that holds it, or `-` for stdin
    #[arg(default_value = "-", hide_default_value = true)]
    file: PathBuf,
    /// The input is hexadecimal text; white space and colons are skipped
    #[arg(long, conflicts_with = "base64")]
    hex: bool,
    /// The input is base64 text, standard or URL-safe
    #[arg(long)]
    base64: bool,
    /// What it is
    #[arg(
        long = "as",
        value_enum,
        default_value = "envelope",
        value_name = "KIND"
    )]
    kind: Kind,
    /// Take it for what travels on this subject of NATS
    #[arg(long, conflicts_with = "kind")]
    subject: Option<String>,
}

/// Does what was asked.
pub(crate) fn run(args: &Decode, globals: &Globals) -> Result {
    let mut input = Vec::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin()
            .read_to_end(&mut input)
            .doing("cannot read stdin")?;
    } else {
        input = std::fs::read(&args.file)
            .doing(format!("cannot read {}", args.file.display()))
            .hint("name the file with the frame, or `-` for stdin")?;
    }
    let bytes = if args.hex {
        from_hex(&input)?
    } else if args.base64 {
        from_base64(&input)?
    } else {
        input
    };
    let kind = args.subject.as_deref().map_or(args.kind, Kind::of_subject);
    let wrong = |error: prost::DecodeError| {
        let failure = Failure::new(format!("this is no {}: {error}", kind.name()));
        if args.hex || args.base64 {
            failure
        } else {
            failure.hint("where the input is text, say --hex or --base64")
        }
    };
    let bytes = Bytes::from(bytes);
    if let Some(shown) = kind.json(bytes.clone()) {
        return globals.output.object(&shown.map_err(wrong)?);
    }
    let frame = Envelope::decode(bytes).map_err(wrong)?;
    if globals.output.json {
        globals.output.object(&frame_json::envelope(&frame))
    } else {
        globals.output.line(envelope::to_text(&frame).trim_end())
    }
}

fn from_hex(text: &[u8]) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace() && *byte != b':')
        .collect();
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
            .ok_or_else(|| {
                Failure::new(format!(
                    "`{}` is no hexadecimal digit",
                    char::from(digit).escape_default()
                ))
            })
    };
    if !digits.len().is_multiple_of(2) {
        return Err(Failure::new("the number of hexadecimal digits is odd"));
    }
    digits
        .chunks_exact(2)
        .map(|pair| Ok(value(pair[0])? << 4 | value(pair[1])?))
        .collect()
}

fn from_base64(text: &[u8]) -> Result<Vec<u8>> {
    let compact: Vec<u8> = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace() && **byte != b'=')
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    base64::engine::general_purpose::STANDARD_NO_PAD
        .decode(compact)
        .doing("the input is not base64")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hex_and_base64_come_in_many_dresses() {
        assert_eq!(from_hex(b"08 45\n12:05").unwrap(), [0x08, 0x45, 0x12, 0x05]);
        assert!(from_hex(b"084").is_err());
        assert!(from_hex(b"0g").is_err());
        assert_eq!(from_base64(b"_-8=\n").unwrap(), [0xff, 0xef]);
        assert_eq!(from_base64(b"/+8").unwrap(), [0xff, 0xef]);
        assert!(from_base64(b"!!").is_err());
    }
}
