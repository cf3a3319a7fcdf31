//! What a policy returns, at the lowest level: bytes of its memory and an address.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use arqon_policy::{
    Binding, Block, Caps, Decision, Draft, Host, HostOptions, Isolation, Limits, MAX_REASON_BYTES,
    Policies, PoliciesOptions, Rewrite, Sender, Shown, Subject, Verdict, wrap,
};
use arqon_proto::{
    codes::ErrorCode,
    headers::{HeaderLimits, check_client_headers, reserved},
    names::{PolicyName, RoomId, SessionId, TenantId, UserId},
};
use bytes::Bytes;
use futures_util::FutureExt as _;

/// Bytes of the guest's memory.
const MEMORY: u64 = 2 << 16;
/// From here on lies what was passed in: what it holds is not worked out here.
const KNOWN: u64 = 1 << 16;
/// Where the guest puts the payload.
const AT: usize = 1024;
const MAX_DATA: usize = 8 << 10;
/// Bytes of texts above which the host may refuse a verdict for its size.
const SURELY_TAKEN: usize = 1 << 20;

const CAPS: Caps = Caps {
    max_payload: 4096,
    headers: HeaderLimits {
        max_headers: 8,
        max_header_bytes: 1024,
    },
};

struct Rig {
    policies: Policies,
    tenant: TenantId,
    room: RoomId,
    user: UserId,
    session: SessionId,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let options = HostOptions {
        slots: 4,
        ..HostOptions::default()
    };
    let host = Host::new(&options).expect("a host");
    let core = wat::parse_str(include_str!("verdict.wat")).expect("the text of the guest");
    let component = wrap::componentize(&core).expect("a component");
    let module = host.load_component(&component).expect("a module");
    let options = PoliciesOptions {
        tenant_cpu: 100.0,
        nursery_threads: 1,
        judge_threads: 1,
    };
    let (policies, _) = Policies::new(&host, &options).expect("threads");
    let tenant = TenantId::parse("acme").expect("a tenant");
    policies.set(vec![Arc::new(Binding {
        key: "tenant.acme.any".into(),
        name: "any".into(),
        tenant: Some(tenant.clone()),
        rooms: None,
        policy: PolicyName::parse("any").expect("a policy"),
        version: 1,
        digest: module.digest(),
        revision: 1,
        order: 0,
        shadow: false,
        // No instance remembers an input, and none is made elsewhere.
        isolation: Isolation::Message,
        // A thread that gets no CPU for a while is not what this is about.
        limits: Limits {
            cpu: Duration::from_secs(2),
            wall: Duration::from_secs(20),
            configure: Duration::from_secs(2),
            ..Limits::default()
        },
        show_reason: true,
        config: Bytes::new(),
        module: Ok(module),
    })]);
    Rig {
        policies,
        tenant,
        room: RoomId::parse("lobby").expect("a room"),
        // One user alone is no reason for a quarantine.
        user: UserId::parse("ann").expect("a user"),
        session: SessionId::new(),
    }
});

/// The decision is that of an independent reading of the guest's memory: what is
/// no verdict blocks, and a change stays within the limits.
///
/// # Panics
/// Where that does not hold.
pub fn verdict(data: &[u8]) {
    if !(4..=MAX_DATA).contains(&data.len()) {
        return;
    }
    let rig = &*RIG;
    let before = Draft {
        headers: BTreeMap::from([("kind".to_owned(), "test".to_owned())]),
        payload: Bytes::copy_from_slice(data),
    };
    let mut draft = before.clone();
    let subject = Subject {
        tenant: &rig.tenant,
        room: &rig.room,
        user: &rig.user,
        role: "user",
        session: rig.session,
    };
    let sender = Sender::new();
    let decision = rig.policies.judge(subject, &mut draft, &sender, &CAPS);
    let decision = decision.now_or_never().expect("it is judged at once");

    let memory = Memory::of(data);
    match memory.verdict() {
        Ok(verdict) => expected(verdict, &decision, &before, &draft),
        Err(Unread::Illegal) => fault(&decision),
        Err(Unread::Unknown) => {}
    }
    // Whatever is in what was passed in, too.
    match decision {
        Decision::Pass => {
            assert!(matches!(memory.case(), Some(0 | 2) | None), "{decision:?}");
            if draft != before {
                assert!(lawful(&draft), "{draft:?}");
            }
        }
        Decision::Blocked(block) => assert!(
            matches!(
                (block.code, block.class),
                (ErrorCode::PolicyBlocked, "verdict") | (ErrorCode::PolicyFault, "bad_verdict")
            ),
            "{block:?}"
        ),
        Decision::Limited { .. } => panic!("no budget is spent"),
    }
}

fn expected(verdict: Verdict, decision: &Decision, before: &Draft, after: &Draft) {
    match verdict {
        Verdict::Allow => {
            assert_eq!(decision, &Decision::Pass);
            assert_eq!(after, before);
        }
        Verdict::Block(reason) => {
            let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
            let block = Block {
                code: ErrorCode::PolicyBlocked,
                class: "verdict",
                shown: Some(Shown {
                    binding: "any".to_owned(),
                    reason: reason.to_owned(),
                }),
            };
            assert_eq!(decision, &Decision::Blocked(block));
        }
        Verdict::Transform(Rewrite { payload, headers }) => {
            let changed = Draft {
                payload: payload.clone().unwrap_or_else(|| before.payload.clone()),
                headers: headers.unwrap_or_else(|| before.headers.clone()),
            };
            // A payload that stays was within the limit when it came in.
            let fits = payload.is_none_or(|payload| payload.len() <= CAPS.max_payload);
            if fits && headers_lawful(&changed) {
                assert_eq!(decision, &Decision::Pass);
                assert_eq!(after, &changed);
            } else {
                fault(decision);
            }
        }
    }
}

fn fault(decision: &Decision) {
    let block = Block {
        code: ErrorCode::PolicyFault,
        class: "bad_verdict",
        shown: None,
    };
    assert_eq!(decision, &Decision::Blocked(block));
}

fn lawful(draft: &Draft) -> bool {
    headers_lawful(draft) && draft.payload.len() <= CAPS.max_payload.max(MAX_DATA)
}

fn headers_lawful(draft: &Draft) -> bool {
    !draft.headers.keys().any(|name| reserved(name))
        && check_client_headers(&draft.headers, &CAPS.headers).is_ok()
}

/// The guest's memory when it answers.
struct Memory {
    known: Vec<u8>,
    answer: u64,
}

/// Why there is no verdict to compare with.
enum Unread {
    /// It is none.
    Illegal,
    /// It lies where this does not look.
    Unknown,
}

// === impl Memory ===

impl Memory {
    fn of(data: &[u8]) -> Self {
        let mut known = vec![0; usize::try_from(KNOWN).expect("small")];
        let rest = &data[4..];
        known[AT..AT + rest.len()].copy_from_slice(rest);
        let answer = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
        Self {
            known,
            answer: answer.into(),
        }
    }

    /// The case of the verdict, where it is known.
    fn case(&self) -> Option<u8> {
        Some(self.bytes(self.answer, 1).ok()?[0])
    }

    /// The verdict by the canonical ABI of components: a variant of 28 bytes.
    fn verdict(&self) -> Result<Verdict, Unread> {
        let at = self.answer;
        if !at.is_multiple_of(4) {
            return Err(Unread::Illegal);
        }
        self.bytes(at, 28)?;
        let mut taken = 0;
        match self.byte(at)? {
            0 => Ok(Verdict::Allow),
            1 => Ok(Verdict::Block(self.text(at + 4, &mut taken)?)),
            2 => {
                let payload = match self.byte(at + 4)? {
                    0 => None,
                    1 => Some(self.list(at + 8, 1)?.to_vec().into()),
                    _ => return Err(Unread::Illegal),
                };
                let headers = match self.byte(at + 16)? {
                    0 => None,
                    1 => Some(self.headers(at + 20, &mut taken)?),
                    _ => return Err(Unread::Illegal),
                };
                Ok(Verdict::Transform(Rewrite { payload, headers }))
            }
            _ => Err(Unread::Illegal),
        }
    }

    fn headers(&self, at: u64, taken: &mut usize) -> Result<BTreeMap<String, String>, Unread> {
        let (start, count) = (self.word(at)?, self.word(at + 4)?);
        if !start.is_multiple_of(4) {
            return Err(Unread::Illegal);
        }
        self.bytes(start, count * 16)?;
        let mut headers = BTreeMap::new();
        let mut twice = false;
        for index in 0..count {
            let name = self.text(start + index * 16, taken)?;
            let value = self.text(start + index * 16 + 8, taken)?;
            twice |= headers.insert(name, value).is_some();
        }
        if twice {
            Err(Unread::Illegal)
        } else {
            Ok(headers)
        }
    }

    fn text(&self, at: u64, taken: &mut usize) -> Result<String, Unread> {
        let bytes = self.list(at, 1)?;
        *taken += bytes.len();
        if *taken > SURELY_TAKEN {
            return Err(Unread::Unknown);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Unread::Illegal)?;
        Ok(text.to_owned())
    }

    /// The bytes to which address and length at `at` point.
    fn list(&self, at: u64, size: u64) -> Result<&[u8], Unread> {
        let (start, len) = (self.word(at)?, self.word(at + 4)?);
        self.bytes(start, len * size)
    }

    fn byte(&self, at: u64) -> Result<u8, Unread> {
        Ok(self.bytes(at, 1)?[0])
    }

    fn word(&self, at: u64) -> Result<u64, Unread> {
        let bytes = self.bytes(at, 4)?.try_into().map_err(|_| Unread::Illegal)?;
        Ok(u32::from_le_bytes(bytes).into())
    }

    fn bytes(&self, at: u64, len: u64) -> Result<&[u8], Unread> {
        let end = at + len;
        if end > MEMORY {
            return Err(Unread::Illegal);
        }
        if end > KNOWN {
            return Err(Unread::Unknown);
        }
        let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
        let (start, end) = range.ok_or(Unread::Illegal)?;
        Ok(&self.known[start..end])
    }
}
