//! `operations.toml`: what each request does. Checked against the protocol and
//! the codes, and made into the first half of the protocol reference.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::{fs, io};

use protox::prost_reflect::prost_types::FileDescriptorSet;
use serde::Deserialize;

use crate::registry::Registry;

/// All of `operations.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operations {
    any_frame: Vec<String>,
    any_room: Vec<String>,
    rules: Vec<String>,
    operation: Vec<Operation>,
    examples: Examples,
}

/// One request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: String,
    room: bool,
    body: String,
    answer: String,
    then: Option<String>,
    errors: Vec<String>,
    notes: Option<String>,
    example: String,
}

/// Golden vectors shown beside those of the requests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Examples {
    server: Vec<String>,
}

/// Opcodes from here on are the server's.
const FIRST_OF_SERVER: i32 = 64;

impl Operations {
    /// Reads the text of `operations.toml`.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Requests that are missing or none, codes that are none, and codes that
    /// nothing here leads to.
    pub(crate) fn problems(&self, protocol: &FileDescriptorSet, codes: &Registry) -> Vec<String> {
        let mut problems = Vec::new();
        let wanted: BTreeSet<_> = opcodes(protocol)
            .into_iter()
            .filter(|(number, _)| (1..FIRST_OF_SERVER).contains(number))
            .map(|(_, name)| name)
            .collect();
        let have: BTreeSet<_> = self.operation.iter().map(|o| o.op.clone()).collect();
        for op in wanted.symmetric_difference(&have) {
            problems.push(format!("{op}: here or in the protocol, and not in both"));
        }
        let named: BTreeSet<_> = self
            .operation
            .iter()
            .flat_map(|o| &o.errors)
            .chain(&self.any_frame)
            .chain(&self.any_room)
            .map(String::as_str)
            .collect();
        for name in &named {
            match codes.error.iter().find(|e| e.name == *name) {
                None => problems.push(format!("{name}: no code of codes.toml")),
                Some(code) if code.public.is_some() => {
                    problems.push(format!("{name}: clients get {:?}", code.public));
                }
                Some(_) => {}
            }
        }
        for code in &codes.error {
            let told = code.public.is_none() && !code.retired;
            if told && code.http.is_none() && !named.contains(code.name.as_str()) {
                problems.push(format!("{}: no request is said to get it", code.name));
            }
        }
        problems
    }

    /// What comes before the messages in the protocol reference.
    pub(crate) fn render(
        &self,
        comments: &[(i32, String, String)],
        codes: &Registry,
    ) -> io::Result<String> {
        let mut out = String::from(INTRODUCTION);
        refusals(&mut out, codes);
        self.requests(&mut out);
        out.push_str("\n## Frames of the server\n\n| opcode | |\n|---|---|\n");
        for (number, name, comment) in comments {
            if *number >= FIRST_OF_SERVER {
                let text = comment.strip_prefix("Server: ").unwrap_or(comment);
                let _ = writeln!(out, "| `{name}` | {} |", capital(text));
            }
        }
        out.push_str("\n## Rules\n\n");
        for rule in &self.rules {
            let _ = writeln!(out, "- {rule}");
        }
        out.push_str(HEADERS);
        out.push_str("\n## Closing\n\nThe server closes with these; 4000–4499 mean reconnect, 4500–4999 do not. Others are WebSocket's own: 1000 at your wish, 1002 for broken framing, 1009 for a frame over `limits.max_frame_bytes`.\n\n| code | name | |\n|---|---|---|\n");
        for close in codes.close.iter().filter(|close| !close.retired) {
            let _ = writeln!(
                out,
                "| {} | `{}` | {} |",
                close.number, close.name, close.help
            );
        }
        out.push_str("\n## Examples\n\nByte by byte, from the [golden vectors](../testdata/README.md), which the tests of all three languages read.\n");
        let of_requests = self.operation.iter().map(|o| &o.example);
        for name in of_requests.chain(&self.examples.server) {
            out.push_str(&example(name)?);
        }
        out.push_str("\n# All messages\n");
        Ok(out)
    }

    fn requests(&self, out: &mut String) {
        let list = |codes: &[String]| {
            let quoted: Vec<_> = codes.iter().map(|code| format!("`{code}`")).collect();
            quoted.join(", ")
        };
        let _ = write!(
            out,
            "\n## Requests\n\nAny frame may be answered by {}; one that names a room by {}. [What each code means](codes.md).\n",
            list(&self.any_frame),
            list(&self.any_room)
        );
        for o in &self.operation {
            let room = if o.room {
                "the room it is about"
            } else {
                "none"
            };
            let _ = write!(
                out,
                "\n### Request {}\n\n| | |\n|---|---|\n| `room` | {room} |\n| body | {} |\n| answer | {} |\n",
                o.op, o.body, o.answer
            );
            if let Some(then) = &o.then {
                let _ = writeln!(out, "| then | {then} |");
            }
            if !o.errors.is_empty() {
                let _ = writeln!(out, "| errors | {} |", list(&o.errors));
            }
            if let Some(notes) = &o.notes {
                let _ = writeln!(out, "| | {notes} |");
            }
        }
    }
}

/// Number and name of each opcode.
fn opcodes(protocol: &FileDescriptorSet) -> Vec<(i32, String)> {
    let enums = protocol.file.iter().flat_map(|file| &file.enum_type);
    enums
        .filter(|e| e.name() == "Opcode")
        .flat_map(|e| &e.value)
        .map(|value| {
            let name = value.name().trim_start_matches("OPCODE_").to_owned();
            (value.number(), name)
        })
        .collect()
}

/// The refusals that come as an HTTP answer.
fn refusals(out: &mut String, codes: &Registry) {
    out.push_str("\n| status | code | |\n|---|---|---|\n");
    for code in codes
        .error
        .iter()
        .filter(|e| e.public.is_none() && !e.retired)
    {
        if let Some(http) = code.http {
            let _ = writeln!(out, "| {http} | `{}` | {} |", code.name, code.help);
        }
    }
}

/// A golden vector: its first comment, its bytes, and what they say.
fn example(name: &str) -> io::Result<String> {
    let path = format!("testdata/{name}.txt");
    println!("cargo::rerun-if-changed={path}");
    let text = fs::read_to_string(&path)?;
    let parts = text.split_once("bytes:\n");
    let parts = parts.and_then(|(head, rest)| Some((head, rest.split_once("content:\n")?)));
    let (head, (bytes, content)) =
        parts.ok_or_else(|| io::Error::other(format!("{path}: no bytes or no content")))?;
    let says: Vec<_> = head
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .collect();
    Ok(format!(
        "\n### Example {name}\n\n{}\n\n```text\n{bytes}```\n\n```json\n{}\n```\n",
        says.join(" "),
        content.trim_end()
    ))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

const INTRODUCTION: &str = "
Contents: [Connecting](#connecting) · [Requests](#requests) · [Frames of the server](#frames-of-the-server) · [Rules](#rules) · [Headers](#headers) · [Closing](#closing) · [Examples](#examples) · [All messages](#all-messages) · [Codes](codes.md)

## Connecting

`GET /v1/socket` with an upgrade to WebSocket, version 13, without compression.

| what | how |
|---|---|
| token | `Authorization: Bearer JWT`, or, from browsers, a second offered subprotocol `arqon.bearer.JWT`. Never in the URL |
| subprotocol | `arqon.v1`; none is taken as that. Where the manifest has `session.json = true` also `arqon.v1+json`; of both the one offered first. The answer names it, never the token |
| trace | `traceparent`, W3C Trace Context, may be sent |
| frames | binary, one Protobuf `Envelope` each (with `arqon.v1+json` text, one as JSON); fragments are put together up to `limits.max_frame_bytes` |

A token is RS256 with `iss`, `aud`, `sub`, `exp`, `iat` and `tenant`; `nbf`, `jti`, `role` (`user`, `observer`: joins only, `service`: publishes to rooms it has not joined, `admin`) and `rooms` (`{\"join\": [...], \"publish\": [...]}`) are honoured. In patterns `*` is one token of a room's name and `>` at the end all that follow.

What is refused gets an HTTP status and a JSON body with the code, before there is a WebSocket; `503` comes with `Retry-After`:
";

const HEADERS: &str = "
## Headers

Of an Envelope, on `PUBLISH` and `MESSAGE`:

| name | who | what |
|---|---|---|
| `X-Twist-ID` | the publisher, else Shield | The message's id, a UUIDv7. A client's is kept if it is well formed, else replaced |
| `X-Timestamp` | Shield | When Shield took it: RFC 3339, UTC, microseconds |
| other `X-…` | nobody | Refused with `HEADER_RESERVED` |
| `traceparent` | the client, else Shield | W3C Trace Context, version 00. Of a traced message Shield's span; a malformed one is dropped |
| all others | the application | Passed on as they are. Names are HTTP tokens of 1 to 128 bytes, values hold no control characters |

The sender is no header: `message.sender` has user and session, and no client can forge it.
";
