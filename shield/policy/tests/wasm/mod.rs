//! Core modules and components for the tests, put together from text.

#![allow(dead_code, unreachable_pub)]

use arqon_policy::wrap;

/// The parts of a core module that fits the world; tests replace some.
pub struct Core {
    pub imports: String,
    pub memory: String,
    pub globals: String,
    pub realloc: String,
    pub configure: String,
    pub on_message: String,
    pub more: String,
}

impl Default for Core {
    fn default() -> Self {
        Self {
            imports: r#"(import "arqon:policy/host@1.0.0" "log" (func $log (param i32 i32 i32)))"#
                .into(),
            memory: r#"(memory (export "memory") 1)"#.into(),
            globals: "(global $heap (mut i32) (i32.const 4096))".into(),
            // Blocks are never given back: an instance of a test lives shortly.
            realloc: r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get 3)))
                (local.get $at))"#
                .into(),
            configure: r#"(func (export "configure") (param i32 i32) (result i32)
                (i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16))"#
                .into(),
            on_message: on_message("(i32.store8 (i32.const 32) (i32.const 0)) (i32.const 32)"),
            more: String::new(),
        }
    }
}

/// `on-message` with this body, which leaves the verdict's address.
pub fn on_message(body: &str) -> String {
    format!(
        r#"(func (export "on-message")
            (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {body})"#
    )
}

impl Core {
    pub fn wat(&self) -> String {
        format!(
            "(module {} {} {} {} {} {} {})",
            self.imports,
            self.memory,
            self.globals,
            self.realloc,
            self.configure,
            self.on_message,
            self.more
        )
    }

    pub fn bytes(&self) -> Vec<u8> {
        wat::parse_str(self.wat()).expect("the text of the module")
    }

    pub fn component(&self) -> Vec<u8> {
        wrap::componentize(&self.bytes()).expect("a component")
    }
}

/// A component with `more` at its end: what an encoder of policies never writes.
pub fn with_more(component: &[u8], wat: &str) -> Vec<u8> {
    let more = wat::parse_str(format!("(component {wat})")).expect("the text of the addition");
    let mut bytes = component.to_vec();
    bytes.extend_from_slice(&more[8..]);
    bytes
}

/// A number as Wasm writes it.
pub fn leb(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// A section of a module or component.
pub fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![id];
    out.extend(leb(content.len()));
    out.extend_from_slice(content);
    out
}

/// A component with nothing but this core module in it.
pub fn holding(module: &[u8]) -> Vec<u8> {
    let mut out = b"\0asm\x0d\0\x01\0".to_vec();
    out.extend(section(1, module));
    out
}

/// A core module of these sections.
pub fn module(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in sections {
        out.extend(section(*id, content));
    }
    out
}

/// A core module with one function of about this many bytes, of additions.
pub fn one_large_function(bytes: usize) -> Vec<u8> {
    let mut body = vec![0x00, 0x41, 0x01];
    while body.len() + 4 < bytes {
        body.extend([0x41, 0x07, 0x6a]);
    }
    body.extend([0x1a, 0x0b]);
    let mut code = vec![1];
    code.extend(leb(body.len()));
    code.extend(body);
    module(&[(1, vec![1, 0x60, 0, 0]), (3, vec![1, 0]), (10, code)])
}
