//! Compares the types of a component with those of the world, by writing them
//! out: exactly the same text is exactly the same type.

use std::fmt::Write as _;

use wasmparser::{
    component_types::{
        ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentFuncTypeId,
        ComponentInstanceTypeId, ComponentValType,
    },
    types::TypesRef,
};

use super::{Finding, WASI_HINT};

const HOST: &str = "arqon:policy/host@1.0.0";
const TYPES: &str = "arqon:policy/types@1.0.0";

const WORLD_HINT: &str = "build against policy.wit of this release (`arq policy new` writes it): the world is arqon:policy/policy@1.0.0";

// The types of policy.wit. A test wraps a module with that file and compares.
const LEVEL: &str = "enum{debug,info,warn,error}";
const HEADER: &str = "record{name:string,value:string}";
const MESSAGE: &str = "record{tenant:string,room:string,user:string,role:string,headers:list<record{name:string,value:string}>,payload:list<u8>}";
const REWRITE: &str =
    "record{payload:option<list<u8>>,headers:option<list<record{name:string,value:string}>>}";
const VERDICT: &str = "variant{allow,block(string),transform(record{payload:option<list<u8>>,headers:option<list<record{name:string,value:string}>>})}";
const LOG: &str = "func(level:enum{debug,info,warn,error},text:string)";
const CONFIGURE: &str = "func(config:list<u8>)->result<_,string>";
const ON_MESSAGE: &str = "func(msg:record{tenant:string,room:string,user:string,role:string,headers:list<record{name:string,value:string}>,payload:list<u8>})->variant{allow,block(string),transform(record{payload:option<list<u8>>,headers:option<list<record{name:string,value:string}>>})}";

/// Longest type that is written out. Types can share parts, so a small file
/// can describe an endless text.
const MAX_TEXT: usize = 1_000;
/// Longest message, in characters: names come from the file.
const MAX_MESSAGE: usize = 2_000;

pub(super) fn fits(
    types: TypesRef<'_>,
    imports: &[String],
    exports: &[String],
) -> Result<Vec<String>, Vec<Finding>> {
    let mut world = World {
        types,
        findings: Vec::new(),
    };
    let mut seen = Vec::new();
    for name in imports {
        if let Some(item) = types.component_item_for_import(name) {
            world.import(name, item.ty);
            // Types by their own names are nothing that runs.
            if matches!(item.ty, ComponentEntityType::Instance(_)) {
                seen.push(name.clone());
            }
        }
    }
    for name in exports {
        if let Some(item) = types.component_item_for_export(name) {
            world.export(name, item.ty);
        }
    }
    for name in ["configure", "on-message"] {
        if types.component_item_for_export(name).is_none() {
            world.find(
                "world_mismatch",
                format!("it does not export `{name}`"),
                WORLD_HINT,
            );
        }
    }
    if world.findings.is_empty() {
        Ok(seen)
    } else {
        Err(world.findings)
    }
}

struct World<'t> {
    types: TypesRef<'t>,
    findings: Vec<Finding>,
}

impl World<'_> {
    fn import(&mut self, name: &str, ty: ComponentEntityType) {
        match (name, ty) {
            (HOST | TYPES, ComponentEntityType::Instance(id)) => self.instance(name, id),
            // `use` in the world: the same types once more, by their own names.
            ("message" | "verdict", ComponentEntityType::Type { referenced, .. }) => {
                self.ty(name, name, referenced);
            }
            _ if name.starts_with("wasi:") => self.find(
                "wasi_import",
                format!("it imports `{name}` of WASI"),
                WASI_HINT,
            ),
            _ if name.starts_with("arqon:policy/") => self.find(
                "world_mismatch",
                format!("it imports `{name}`, which is not of this world"),
                WORLD_HINT,
            ),
            _ => self.find(
                "unknown_import",
                format!("it imports `{}`, which no policy gets", cut(name)),
                "a policy imports nothing but `log` of arqon:policy/host@1.0.0",
            ),
        }
    }

    fn instance(&mut self, of: &str, id: ComponentInstanceTypeId) {
        // Copied out, because the findings need all of `self`.
        let items: Vec<(String, ComponentEntityType)> = self.types[id]
            .exports
            .iter()
            .map(|(name, item)| (name.clone(), item.ty))
            .collect();
        for (name, ty) in items {
            match ty {
                ComponentEntityType::Type { referenced, .. } => self.ty(of, &name, referenced),
                ComponentEntityType::Func(func) if of == HOST && name == "log" => {
                    self.func("log", func, LOG);
                }
                _ => self.find(
                    "unknown_import",
                    format!(
                        "it imports `{}` of `{of}`, which does not exist",
                        cut(&name)
                    ),
                    WORLD_HINT,
                ),
            }
        }
    }

    fn ty(&mut self, of: &str, name: &str, id: ComponentAnyTypeId) {
        let expected = match name {
            "level" => LEVEL,
            "header" => HEADER,
            "message" => MESSAGE,
            "rewrite" => REWRITE,
            "verdict" => VERDICT,
            _ => {
                return self.find(
                    "world_mismatch",
                    format!(
                        "it imports the type `{}` of `{of}`, which does not exist",
                        cut(name)
                    ),
                    WORLD_HINT,
                );
            }
        };
        let found = match id {
            ComponentAnyTypeId::Defined(id) => {
                let mut text = Text::new(self.types);
                text.defined(&self.types[id]);
                text.out
            }
            _ => "no plain type".to_owned(),
        };
        if found != expected {
            self.find(
                "world_mismatch",
                format!("its type `{name}` is {found}, not {expected}"),
                WORLD_HINT,
            );
        }
    }

    fn export(&mut self, name: &str, ty: ComponentEntityType) {
        let expected = match name {
            "configure" => CONFIGURE,
            "on-message" => ON_MESSAGE,
            _ => {
                return self.find(
                    "world_mismatch",
                    format!("it exports `{}`, which is not of this world", cut(name)),
                    WORLD_HINT,
                );
            }
        };
        match ty {
            ComponentEntityType::Func(id) => self.func(name, id, expected),
            _ => self.find(
                "wrong_signature",
                format!("`{name}` is no function"),
                WORLD_HINT,
            ),
        }
    }

    fn func(&mut self, name: &str, id: ComponentFuncTypeId, expected: &str) {
        let mut text = Text::new(self.types);
        text.func(id);
        if text.out != expected {
            self.find(
                "wrong_signature",
                format!("`{name}` is {}, not {expected}", text.out),
                WORLD_HINT,
            );
        }
    }

    fn find(&mut self, code: &'static str, message: String, hint: &'static str) {
        // A file can have a thousand wrong imports; ten say enough.
        if self.findings.len() < 10 {
            let message: String = message.chars().take(MAX_MESSAGE).collect();
            self.findings.push(Finding::new(code, message, hint));
        }
    }
}

fn cut(name: &str) -> String {
    name.chars().take(100).collect()
}

struct Text<'t> {
    types: TypesRef<'t>,
    out: String,
}

impl<'t> Text<'t> {
    fn new(types: TypesRef<'t>) -> Self {
        Self {
            types,
            out: String::new(),
        }
    }

    fn put(&mut self, text: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.out, "{text}");
    }

    fn func(&mut self, id: ComponentFuncTypeId) {
        let types = self.types;
        let func = &types[id];
        if func.async_ {
            self.put("async ");
        }
        self.put("func(");
        for (index, (name, ty)) in func.params.iter().enumerate() {
            self.separate(index);
            self.put(name);
            self.put(':');
            self.value(ty);
        }
        self.put(')');
        if let Some(result) = &func.result {
            self.put("->");
            self.value(result);
        }
    }

    fn separate(&mut self, index: usize) {
        if index > 0 {
            self.put(',');
        }
    }

    fn value(&mut self, ty: &ComponentValType) {
        if self.out.len() > MAX_TEXT {
            return;
        }
        match ty {
            ComponentValType::Primitive(primitive) => self.put(primitive),
            ComponentValType::Type(id) => {
                let types = self.types;
                self.defined(&types[*id]);
            }
        }
    }

    fn optional(&mut self, ty: Option<&ComponentValType>) {
        match ty {
            Some(ty) => self.value(ty),
            None => self.put('_'),
        }
    }

    fn defined(&mut self, ty: &ComponentDefinedType) {
        match ty {
            ComponentDefinedType::Primitive(primitive) => self.put(primitive),
            ComponentDefinedType::Record(record) => {
                self.put("record{");
                for (index, (name, ty)) in record.fields.iter().enumerate().take(20) {
                    self.separate(index);
                    self.put(name);
                    self.put(':');
                    self.value(ty);
                }
                self.put('}');
            }
            ComponentDefinedType::Variant(variant) => {
                self.put("variant{");
                for (index, (name, case)) in variant.cases.iter().enumerate().take(20) {
                    self.separate(index);
                    self.put(name);
                    if let Some(ty) = &case.ty {
                        self.put('(');
                        self.value(ty);
                        self.put(')');
                    }
                }
                self.put('}');
            }
            ComponentDefinedType::Enum(cases) => {
                self.put("enum{");
                for (index, name) in cases.iter().enumerate().take(20) {
                    self.separate(index);
                    self.put(name);
                }
                self.put('}');
            }
            ComponentDefinedType::List { element, .. } => {
                self.put("list<");
                self.value(element);
                self.put('>');
            }
            ComponentDefinedType::Option { ty, .. } => {
                self.put("option<");
                self.value(ty);
                self.put('>');
            }
            ComponentDefinedType::Result { ok, err, .. } => {
                self.put("result<");
                self.optional(ok.as_ref());
                self.put(',');
                self.optional(err.as_ref());
                self.put('>');
            }
            // None of these is in the world, so their name is enough to differ.
            ComponentDefinedType::Tuple(_) => self.put("tuple"),
            ComponentDefinedType::Flags(_) => self.put("flags"),
            ComponentDefinedType::Own(_) | ComponentDefinedType::Borrow(_) => self.put("resource"),
            _ => self.put("another type"),
        }
    }
}
