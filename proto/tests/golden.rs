//! Every file of `testdata/` against the generated types, and against a
//! second decoder that knows nothing but the descriptors.

#![allow(clippy::unwrap_used)]

mod vectors;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope::{decode_client, decode_server, is_client_opcode, to_text};
use arqon_proto::json;
use arqon_proto::v1::{
    BrainBeat, Control, Envelope, Opcode, PoolRecord, PresenceAsk, PresenceChanges,
    PresenceDigests, PresenceEvents, PresenceOrder, PresencePage, PresenceQuery, ShieldBeat,
    TenantRecord,
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use vectors::{Twins, Vector, vectors};

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

/// The JSON twin of each vector, which `scripts/gen` writes and the Python
/// tests compare with Google's own ProtoJSON.
#[test]
fn every_good_frame_has_its_twin_in_json() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let twins = fs::read_to_string(folder.join("twins.json")).unwrap();
    let mut twins: Twins = serde_json::from_str(&twins).unwrap();
    for vector in frames().filter(|v| v.content.is_some()) {
        let name = &vector.name;
        let twin = twins.remove(name).unwrap();
        let text = json::encode(&vector.bytes).unwrap();
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told, twin, "{name}");
        if vector.is_from_client() {
            // Both ways to spell it, the one of the vectors and the twin's.
            for text in [&twin, vector.content.as_ref().unwrap()] {
                let decoded = json::decode_client(text.to_string().as_bytes(), 65_536).unwrap();
                assert!(
                    decoded == decode_client(vector.bytes.clone()).unwrap(),
                    "{name}"
                );
            }
        }
    }
    assert!(twins.is_empty(), "{:?}", twins.keys());
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
