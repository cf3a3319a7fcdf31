//! Policies made of one template, and hosts to run them.

use std::{collections::BTreeMap, time::Duration};

use arqon_policy::{
    Digest, Draft, Fault, FaultClass, Host, HostError, HostOptions, Instance, Limits, Message,
    Module, Ran, Verdict, wrap,
};
use bytes::Bytes;

const TEMPLATE: &str = include_str!("../fixtures/policy.wat");
pub(crate) const ALLOW: &str = "(call $allow)";

/// A policy that is the template with some places filled in.
#[derive(Clone, Default)]
pub(crate) struct Guest(BTreeMap<&'static str, String>);

impl Guest {
    /// One that does this with a message.
    pub(crate) fn on_message(body: &str) -> Self {
        Self::default().with("ON_MESSAGE", body)
    }

    pub(crate) fn with(mut self, place: &'static str, text: &str) -> Self {
        self.0.insert(place, text.to_owned());
        self
    }

    pub(crate) fn core(&self) -> Vec<u8> {
        let mut text = TEMPLATE.to_owned();
        let defaults = [("PAGES", "1"), ("ON_MESSAGE", ALLOW)];
        let empty = ["REALLOC", "EXTRA", "CONFIGURE", "AFTER"].map(|place| (place, ""));
        for (place, default) in defaults.into_iter().chain(empty) {
            let filled = self.0.get(place).map_or(default, String::as_str);
            text = text.replace(&format!("@{place}@"), filled);
        }
        wat::parse_str(&text).expect("fixture")
    }

    pub(crate) fn component(&self) -> Vec<u8> {
        wrap::componentize(&self.core()).expect("fixture")
    }

    pub(crate) fn module(&self, host: &Host) -> Module {
        load(host, &self.component()).expect("fixture")
    }

    pub(crate) fn start(&self, host: &Host) -> Result<Instance, Fault> {
        self.module(host).start(b"{}", &limits())
    }

    /// What becomes of one message.
    pub(crate) fn judge(&self, host: &Host) -> Result<Verdict, Fault> {
        let mut instance = self.start(host).expect("starts");
        let result = run(&mut instance, b"hello").result;
        if result.is_err() {
            // It must not run again, whatever state it is in.
            let again = run(&mut instance, b"hello");
            assert_eq!(again.result.expect_err("broken").class, FaultClass::Trap);
            assert_eq!(again.cost, Duration::ZERO);
        }
        result
    }

    /// The class of the fault that one message comes to.
    pub(crate) fn fault(&self, host: &Host) -> FaultClass {
        self.judge(host).expect_err("a fault").class
    }

    /// What it says of its configuration when it does not start.
    pub(crate) fn refusal(&self, host: &Host) -> String {
        let fault = self.start(host).map(drop).expect_err("no start");
        assert_eq!(fault.class, FaultClass::Configure, "{fault}");
        fault.detail
    }
}

/// What the engine alone makes of a component: the check is not in front of it.
#[allow(unsafe_code)]
pub(crate) fn load(host: &Host, component: &[u8]) -> Result<Module, HostError> {
    let compiled = host.precompile(component)?;
    // SAFETY: made by `precompile` just now.
    unsafe { host.load(Digest::of(component), &compiled) }
}

/// The default, but with time enough that a busy machine fails no good message.
pub(crate) fn limits() -> Limits {
    Limits {
        wall: Duration::from_secs(5),
        ..Limits::default()
    }
}

pub(crate) fn run(instance: &mut Instance, payload: &'static [u8]) -> Ran {
    let draft = Draft {
        headers: BTreeMap::from([("kind".into(), "chat".into())]),
        payload: Bytes::from_static(payload),
    };
    let message = Message {
        tenant: "acme",
        room: "lobby",
        user: "ann",
        role: "user",
        draft: &draft,
    };
    instance.run(&message, &limits())
}

/// Runs the test in both configurations, and sees that the engine is well afterwards.
pub(crate) fn in_both(slots: u32, test: impl Fn(&Host)) {
    for guarded in [false, true] {
        let host = Host::new(&HostOptions {
            guarded,
            slots,
            ..HostOptions::default()
        })
        .expect("host");
        test(&host);
        assert_eq!(host.instances(), 0, "guarded: {guarded}");
        let verdict =
            Guest::on_message("(call $block (i32.const 4096) (i32.const 16))").judge(&host);
        assert_eq!(
            verdict,
            Ok(Verdict::Block("not in this room".into())),
            "guarded: {guarded}"
        );
    }
}
