//! Every file of `testdata/` against the generated types, and against a
//! second decoder that knows nothing but the descriptors.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope::{decode_client, decode_server, is_client_opcode, to_text};
use arqon_proto::v1::{
    BrainBeat, Control, Envelope, Opcode, PoolRecord, PresenceAsk, PresenceChanges,
    PresenceDigests, PresenceEvents, PresenceOrder, PresencePage, PresenceQuery, ShieldBeat,
    TenantRecord,
};
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

struct Vector {
    name: String,
    about: String,
    fields: BTreeMap<String, String>,
    bytes: Bytes,
    content: Option<serde_json::Value>,
}

impl Vector {
    fn parse(name: String, text: &str) -> Self {
        let (head, content) = match text.split_once("\ncontent:\n") {
            Some((head, json)) => (head, Some(serde_json::from_str(json).unwrap())),
            None => (text, None),
        };
        let (head, hex) = head.split_once("\nbytes:").unwrap();
        let (about, head) = head.split_once('\n').unwrap();
        let digits: String = hex
            .lines()
            .map(|line| line.split('#').next().unwrap())
            .flat_map(str::chars)
            .filter(|c| !c.is_whitespace())
            .collect();
        let fields = head.lines().map(|line| {
            let (key, value) = line.split_once(':').unwrap();
            (key.to_owned(), value.trim().to_owned())
        });
        Self {
            about: about.strip_prefix("# ").unwrap().to_owned(),
            fields: fields.collect(),
            bytes: (0..digits.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
                .collect(),
            content,
            name,
        }
    }

    fn is_from_client(&self) -> bool {
        match &*self.fields["from"] {
            "client" => true,
            "server" => false,
            other => panic!("{}: from: {other}", self.name),
        }
    }
}

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    let parse = |path: &Path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        Vector::parse(name, &fs::read_to_string(path).unwrap())
    };
    paths.iter().map(|path| parse(path)).collect()
}

/// Those of an Envelope.
fn frames() -> impl Iterator<Item = Vector> {
    vectors()
        .into_iter()
        .filter(|v| v.fields.contains_key("from"))
}

fn descriptor(name: &str) -> MessageDescriptor {
    let set = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    let pool = DescriptorPool::decode(&set[..]).unwrap();
    pool.get_message_by_name(name).unwrap()
}

fn to_json(message: &DynamicMessage) -> serde_json::Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap()
}

#[test]
fn good_frames_decode_to_their_content_and_back() {
    let descriptor = descriptor("arqon.v1.Envelope");
    for vector in frames() {
        let Some(content) = &vector.content else {
            continue;
        };
        let name = &vector.name;
        let decoded = if vector.is_from_client() {
            decode_client(vector.bytes.clone()).unwrap()
        } else {
            decode_server(vector.bytes.clone()).unwrap()
        };
        let told = DynamicMessage::deserialize(descriptor.clone(), content.clone()).unwrap();
        let expected = Envelope::decode(&*told.encode_to_vec()).unwrap();
        assert!(
            decoded == expected,
            "{name}: {}\n--- expected\n{}",
            to_text(&decoded),
            to_text(&expected)
        );

        let reflected = DynamicMessage::decode(descriptor.clone(), vector.bytes.clone()).unwrap();
        assert_eq!(&to_json(&reflected), content, "{name}");

        let encoded = decoded.encode_to_vec();
        match &*vector.fields["canonical"] {
            "yes" => assert_eq!(encoded, vector.bytes, "{name}: encoding"),
            "no" => assert_ne!(encoded, vector.bytes, "{name}: is canonical"),
            other => panic!("{name}: canonical: {other}"),
        }
    }
}

#[test]
fn bad_frames_are_refused_with_their_code() {
    for vector in frames().filter(|v| v.content.is_none()) {
        let name = &vector.name;
        let code = ErrorCode::from_name(&vector.fields["code"]).unwrap();
        if vector.is_from_client() {
            let fault = decode_client(vector.bytes.clone()).unwrap_err();
            assert_eq!(fault.code, code, "{name}");
            assert_eq!(fault.room, vector.fields["room"], "{name}");
            assert_eq!(fault.reference.to_string(), vector.fields["ref"], "{name}");
        } else {
            assert_eq!(decode_server(vector.bytes.clone()), Err(code), "{name}");
        }
    }
}

#[test]
fn every_opcode_and_every_way_to_fail_has_a_vector() {
    let vectors: Vec<_> = frames().collect();
    let mut opcodes = BTreeSet::new();
    let mut codes = BTreeSet::new();
    for vector in &vectors {
        assert!(!vector.about.is_empty(), "{}", vector.name);
        if vector.content.is_some() {
            let op = Envelope::decode(vector.bytes.clone()).unwrap().op();
            assert_eq!(
                is_client_opcode(op),
                vector.is_from_client(),
                "{}",
                vector.name
            );
            opcodes.insert(op as i32);
        } else {
            codes.insert(vector.fields["code"].clone());
        }
    }
    let all = (1..128).filter(|n| Opcode::try_from(*n).is_ok());
    assert_eq!(opcodes, all.collect());
    let ways = [
        "ENVELOPE_UNDECODABLE",
        "PAYLOAD_TOO_LARGE",
        "PROTOCOL_MISMATCH",
        "UNKNOWN_OPCODE",
    ];
    assert_eq!(codes, ways.map(str::to_owned).into());
}

#[test]
fn a_frame_cut_anywhere_never_passes_for_the_whole() {
    let canonical = |v: &Vector| v.fields.get("canonical").is_some_and(|c| c == "yes");
    for vector in frames().filter(canonical) {
        let whole = Envelope::decode(vector.bytes.clone()).unwrap();
        for end in 0..vector.bytes.len() {
            let cut = Envelope::decode(vector.bytes.slice(..end));
            // Some cuts fall between two fields and leave a shorter frame.
            let shorter = |e: Envelope| e.encoded_len() < whole.encoded_len();
            assert!(
                cut.is_err() || cut.is_ok_and(shorter),
                "{} at {end}",
                vector.name
            );
        }
    }
}

#[test]
fn records_decode_to_their_content_and_back() {
    let mut seen = BTreeSet::new();
    for vector in vectors() {
        let Some(ty) = vector.fields.get("type") else {
            continue;
        };
        let again = match &**ty {
            "arqon.v1.TenantRecord" => again::<TenantRecord>(&vector),
            "arqon.v1.PoolRecord" => again::<PoolRecord>(&vector),
            "arqon.v1.ShieldBeat" => again::<ShieldBeat>(&vector),
            "arqon.v1.Control" => again::<Control>(&vector),
            "arqon.v1.BrainBeat" => again::<BrainBeat>(&vector),
            "arqon.v1.PresenceAsk" => again::<PresenceAsk>(&vector),
            "arqon.v1.PresenceDigests" => again::<PresenceDigests>(&vector),
            "arqon.v1.PresenceChanges" => again::<PresenceChanges>(&vector),
            "arqon.v1.PresencePage" => again::<PresencePage>(&vector),
            "arqon.v1.PresenceQuery" => again::<PresenceQuery>(&vector),
            "arqon.v1.PresenceOrder" => again::<PresenceOrder>(&vector),
            "arqon.v1.PresenceEvents" => again::<PresenceEvents>(&vector),
            other => panic!("{}: type {other}", vector.name),
        };
        assert_eq!(again, vector.bytes, "{}", vector.name);
        let reflected = DynamicMessage::decode(descriptor(ty), vector.bytes.clone()).unwrap();
        assert_eq!(Some(to_json(&reflected)), vector.content, "{}", vector.name);
        seen.insert(ty.clone());
    }
    assert_eq!(seen.len(), 12);
}

fn again<M: prost::Message + Default>(vector: &Vector) -> Vec<u8> {
    M::decode(vector.bytes.clone()).unwrap().encode_to_vec()
}
