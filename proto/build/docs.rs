//! The protocol reference, from the comments of the .proto files.

use std::collections::HashMap;
use std::fmt::Write as _;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
};
use protox::prost_reflect::prost_types;

/// What is told of the protocol, and what is not commented.
pub(crate) struct Reference {
    files: Vec<String>,
    /// Number, name and comment of each opcode.
    pub(crate) opcodes: Vec<(i32, String, String)>,
    /// Full names of elements without a comment.
    pub(crate) uncommented: Vec<String>,
}

/// The comments of one file by their path in the descriptor.
struct Comments<'a>(HashMap<&'a [i32], &'a str>);

// Field numbers in descriptor.proto, of which paths consist.
const FILE_MESSAGE: i32 = 4;
const FILE_ENUM: i32 = 5;
const FILE_SYNTAX: i32 = 12;
const MESSAGE_FIELD: i32 = 2;
const MESSAGE_ONEOF: i32 = 8;
const ENUM_VALUE: i32 = 2;

impl Reference {
    /// Walks all files.
    pub(crate) fn collect(set: &FileDescriptorSet) -> Self {
        let mut reference = Self {
            files: Vec::new(),
            opcodes: Vec::new(),
            uncommented: Vec::new(),
        };
        for file in &set.file {
            let text = reference.file(file);
            reference.files.push(text);
        }
        reference
    }

    /// The whole page; `first` is what comes before the messages.
    pub(crate) fn render(&self, first: &str) -> String {
        let mut out = String::from(
            "<!-- Generated from arqon/v1/*.proto, operations.toml, codes.toml and testdata/ by scripts/gen. Do not edit. -->\n# Protocol reference\n",
        );
        out.push_str(first);
        for file in &self.files {
            out.push_str(file);
        }
        out
    }

    fn file(&mut self, file: &FileDescriptorProto) -> String {
        let comments = Comments::of(file);
        let mut out = format!("\n## `{}`\n", file.name());
        self.paragraph(&mut out, &comments, &[FILE_SYNTAX], file.name());
        for (i, message) in (0..).zip(&file.message_type) {
            self.message(&mut out, &comments, i, message);
        }
        for (i, enumeration) in (0..).zip(&file.enum_type) {
            self.enumeration(&mut out, &comments, i, enumeration);
        }
        out
    }

    fn message(&mut self, out: &mut String, comments: &Comments<'_>, i: i32, m: &DescriptorProto) {
        // A nested declaration would escape the walk, and so the check for comments.
        assert!(
            m.enum_type.is_empty() && m.nested_type.iter().all(is_map_entry),
            "{}: declare types at top level",
            m.name()
        );
        let _ = write!(out, "\n### {}\n", m.name());
        self.paragraph(out, comments, &[FILE_MESSAGE, i], m.name());
        for (j, oneof) in (0..).zip(&m.oneof_decl) {
            let real = m
                .field
                .iter()
                .any(|f| f.oneof_index == Some(j) && !f.proto3_optional());
            if real {
                let name = format!("{}.{}", m.name(), oneof.name());
                self.text(comments, &[FILE_MESSAGE, i, MESSAGE_ONEOF, j], &name);
            }
        }
        if m.field.is_empty() {
            out.push_str("\nNo fields.\n");
            return;
        }
        out.push_str("\n| no. | field | type | meaning |\n|---|---|---|---|\n");
        for (j, field) in (0..).zip(&m.field) {
            let name = format!("{}.{}", m.name(), field.name());
            let text = self.text(comments, &[FILE_MESSAGE, i, MESSAGE_FIELD, j], &name);
            let ty = type_of(m, field);
            let _ = writeln!(
                out,
                "| {} | `{}` | {ty} | {text} |",
                field.number(),
                field.name()
            );
        }
    }

    fn enumeration(
        &mut self,
        out: &mut String,
        comments: &Comments<'_>,
        i: i32,
        e: &EnumDescriptorProto,
    ) {
        let _ = write!(out, "\n### {} (enum)\n", e.name());
        self.paragraph(out, comments, &[FILE_ENUM, i], e.name());
        out.push_str("\n| no. | value | meaning |\n|---|---|---|\n");
        for (j, value) in (0..).zip(&e.value) {
            let name = format!("{}.{}", e.name(), value.name());
            let text = self.text(comments, &[FILE_ENUM, i, ENUM_VALUE, j], &name);
            if let Some(opcode) = value.name().strip_prefix("OPCODE_") {
                let opcode = (value.number(), opcode.to_owned(), text.clone());
                self.opcodes.push(opcode);
            }
            let _ = writeln!(out, "| {} | `{}` | {text} |", value.number(), value.name());
        }
    }

    fn paragraph(&mut self, out: &mut String, comments: &Comments<'_>, path: &[i32], name: &str) {
        let text = self.text(comments, path, name);
        let _ = write!(out, "\n{text}\n");
    }

    /// The comment on one line, noted as missing where there is none.
    fn text(&mut self, comments: &Comments<'_>, path: &[i32], name: &str) -> String {
        let comment = comments.0.get(path).copied().unwrap_or_default();
        let words: Vec<_> = comment.split_whitespace().collect();
        if words.is_empty() {
            self.uncommented.push(name.to_owned());
        }
        words.join(" ").replace('|', "\\|").replace('<', "&lt;")
    }
}

impl<'a> Comments<'a> {
    fn of(file: &'a FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        Self(
            locations
                .map(|l| (&*l.path, l.leading_comments()))
                .collect(),
        )
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|o| o.map_entry())
}

fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let local = field.type_name().rsplit('.').next().unwrap_or_default();
    if let Some(entry) = message
        .nested_type
        .iter()
        .find(|n| is_map_entry(n) && n.name() == local)
    {
        let [key, value] = &entry.field[..] else {
            panic!("a map entry has two fields")
        };
        return format!(
            "map of {} to {}",
            type_of(entry, key),
            type_of(entry, value)
        );
    }
    let base = match field.r#type() {
        Type::Message | Type::Enum => format!("[{local}](#{})", local.to_lowercase()),
        Type::String => "string".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::Bool => "bool".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    let base = if field.r#type() == Type::Enum {
        format!("[{local}](#{}-enum)", local.to_lowercase())
    } else {
        base
    };
    if field.label() == Label::Repeated {
        format!("list of {base}")
    } else if field.proto3_optional() {
        format!("optional {base}")
    } else {
        base
    }
}
