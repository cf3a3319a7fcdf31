//! A host, what is bound on it, and people who send.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use arqon_policy::{
    AuditReceiver, Binding, BindingStats, Block, Caps, Decision, Draft, Fault, FaultClass, Host,
    HostOptions, Isolation, Limits, Module, Policies, PoliciesOptions, Sender, Subject, wrap,
};
use arqon_proto::{
    codes::ErrorCode,
    headers::HeaderLimits,
    names::{PolicyName, RoomId, RoomPattern, SessionId, TenantId, UserId},
};
use bytes::Bytes;

pub(crate) const CAPS: Caps = Caps {
    max_payload: 65_536,
    headers: HeaderLimits {
        max_headers: 8,
        max_header_bytes: 1024,
    },
};

pub(crate) struct Rig {
    pub(crate) host: Host,
    pub(crate) policies: Policies,
    pub(crate) audits: AuditReceiver,
    pub(crate) module: Module,
}

/// One session.
pub(crate) struct Who {
    pub(crate) tenant: TenantId,
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    pub(crate) sender: Sender,
}

impl Rig {
    pub(crate) fn new() -> Self {
        // Enough CPU that no test which is not about it meets that limit.
        Self::with(
            32,
            &PoliciesOptions {
                tenant_cpu: 100.0,
                ..PoliciesOptions::default()
            },
        )
    }

    pub(crate) fn with(slots: u32, options: &PoliciesOptions) -> Self {
        let host = Host::new(&HostOptions {
            slots,
            ..HostOptions::default()
        });
        let host = host.expect("a host");
        let core = wat::parse_str(include_str!("guest.wat")).expect("the text of the guest");
        let component = wrap::componentize(&core).expect("a component");
        let module = host.load_component(&component).expect("a module");
        let (policies, audits) = Policies::new(&host, options).expect("threads");
        Self {
            host,
            policies,
            audits,
            module,
        }
    }

    /// A binding with this key and configuration.
    pub(crate) fn binding(&self, key: &str, config: &str) -> Binding {
        let mut parts = key.split('.');
        let tenant = match parts.next() {
            Some("platform") => None,
            _ => Some(TenantId::parse(parts.next().expect("a tenant")).expect("a tenant")),
        };
        Binding {
            key: key.into(),
            name: parts.next().expect("a name").into(),
            tenant,
            rooms: None,
            policy: PolicyName::parse("by-mode").expect("a policy"),
            version: 1,
            digest: self.module.digest(),
            revision: 1,
            order: 0,
            shadow: false,
            isolation: Isolation::Binding,
            // A thread that gets no CPU for a while is not what this is about.
            limits: Limits {
                configure: Duration::from_millis(200),
                wall: Duration::from_secs(10),
                ..Limits::default()
            },
            show_reason: true,
            config: Bytes::copy_from_slice(config.as_bytes()),
            module: Ok(self.module.clone()),
        }
    }

    pub(crate) fn set(&self, bindings: impl IntoIterator<Item = Binding>) {
        self.policies
            .set(bindings.into_iter().map(Arc::new).collect());
    }

    /// Sends and tells what became of it, with the draft.
    pub(crate) async fn send_to(&self, who: &Who, room: &str, payload: &str) -> (Decision, Draft) {
        let mut draft = Draft {
            headers: BTreeMap::from([("kind".to_owned(), "test".to_owned())]),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        };
        let room = RoomId::parse(room).expect("a room");
        let subject = who.subject(&room);
        let policies = &self.policies;
        let decision = policies
            .judge(subject, &mut draft, &who.sender, &CAPS)
            .await;
        (decision, draft)
    }

    pub(crate) async fn send(&self, who: &Who, payload: &str) -> Decision {
        self.send_to(who, "lobby", payload).await.0
    }

    pub(crate) fn stats(&self, key: &str) -> BindingStats {
        let stats = self.policies.stats();
        let one = stats.into_iter().find(|stats| &*stats.key == key);
        one.expect("the binding")
    }
}

impl Who {
    pub(crate) fn new(tenant: &str, user: &str) -> Self {
        Self {
            tenant: TenantId::parse(tenant).expect("a tenant"),
            user: UserId::parse(user).expect("a user"),
            session: SessionId::new(),
            sender: Sender::new(),
        }
    }

    pub(crate) fn subject<'a>(&'a self, room: &'a RoomId) -> Subject<'a> {
        Subject {
            tenant: &self.tenant,
            room,
            user: &self.user,
            role: "user",
            session: self.session,
        }
    }
}

pub(crate) fn in_rooms(binding: Binding, rooms: &str) -> Binding {
    Binding {
        rooms: Some(RoomPattern::parse(rooms).expect("a pattern")),
        ..binding
    }
}

pub(crate) fn shadow(binding: Binding) -> Binding {
    Binding {
        shadow: true,
        ..binding
    }
}

pub(crate) fn broken(binding: Binding) -> Binding {
    Binding {
        module: Err(Fault::new(FaultClass::Missing, "no such object")),
        ..binding
    }
}

/// The block, with its code and class.
#[track_caller]
pub(crate) fn blocked(decision: Decision) -> (ErrorCode, &'static str, Option<String>) {
    match decision {
        Decision::Blocked(Block { code, class, shown }) => {
            (code, class, shown.map(|shown| shown.reason))
        }
        other => panic!("not blocked: {other:?}"),
    }
}

/// The class of the block.
#[track_caller]
pub(crate) fn class(decision: Decision) -> &'static str {
    blocked(decision).1
}

/// The reason of a block by verdict.
#[track_caller]
pub(crate) fn reason(decision: Decision) -> String {
    let (code, class, reason) = blocked(decision);
    reason.unwrap_or_else(|| panic!("no reason: {code} {class}"))
}

/// What a future has to say when it is asked once.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Comes back when it is so, however long that takes; the test's own time
/// limit ends what never comes.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
