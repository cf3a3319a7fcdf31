//! One message through its chain. Here, and only here, a failure becomes a block.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use arqon_proto::{
    codes::ErrorCode,
    headers::{TRACEPARENT, X_TWIST_ID, check_client_headers},
};
use bytes::Bytes;

use crate::{
    AuditEvent, Binding, Block, Caps, Decision, Digest, Draft, Fault, FaultClass, Instance,
    Isolation, Message, Policies, Ran, Rewrite, Sender, Shown, Subject, Verdict,
    audit::{AuditKey, MAX_AUDIT_REASON_BYTES, cut},
    lane::{Core, Lane, Outcome, Taken, quarantined},
    policies::Inner,
    sys,
};

/// What one message brings to each binding.
struct Case<'a> {
    subject: Subject<'a>,
    sender: &'a Sender,
    caps: &'a Caps,
    /// As it was sent.
    payload: Bytes,
}

impl Policies {
    /// Sends a message through its chain. Changes stand in `draft` afterwards;
    /// of a message that may not pass, nobody should look at it.
    ///
    /// Ready at once, unless an instance has to be made. Once begun, it is to
    /// be polled when it wakes, or dropped: it may have been handed an
    /// instance that others of its tenant wait for.
    pub async fn judge(
        &self,
        subject: Subject<'_>,
        draft: &mut Draft,
        sender: &Sender,
        caps: &Caps,
    ) -> Decision {
        let inner = &*self.0;
        let Some(chain) = inner.tenants.chain(subject.tenant, &inner.table) else {
            return Decision::Pass;
        };
        let Some(enforces) = chain.enforces(subject.room) else {
            return Decision::Pass;
        };
        let mut now = Instant::now();
        // Shadows cannot make anybody wait.
        if enforces {
            if let Some(retry_after) = sender.refused(now) {
                inner.limited.senders.fetch_add(1, Relaxed);
                return Decision::Limited { retry_after };
            }
            if let Some(retry_after) = chain.budget().refused(false, now) {
                inner.limited.tenants.fetch_add(1, Relaxed);
                return Decision::Limited { retry_after };
            }
        }
        let case = Case {
            subject,
            sender,
            caps,
            payload: draft.payload.clone(),
        };
        for (number, active) in chain.of(subject.room) {
            let core = &active.core;
            let binding = &*core.binding;
            if binding.shadow && chain.budget().refused(true, now).is_some() {
                // What it costs is spent: it sees the next message again.
                continue;
            }
            let lane = chain.lane(number, active, &inner.slots, inner.epoch);
            let result = inner.ask(lane, &case, draft, &mut now).await;
            core.counters.result(&result);
            if let Some(block) = inner.conclude(core, &case, draft, result, now) {
                return Decision::Blocked(block);
            }
        }
        Decision::Pass
    }
}

impl Inner {
    /// Has one binding judge the message.
    async fn ask(
        &self,
        lane: &Arc<Lane>,
        case: &Case<'_>,
        draft: &Draft,
        now: &mut Instant,
    ) -> Result<Verdict, Fault> {
        let binding = lane.binding();
        if let Err(fault) = &binding.module {
            return Err(fault.clone());
        }
        if binding.isolation == Isolation::Message {
            return self.ask_fresh(lane, case, draft, *now);
        }
        let mut lease = match lane.take(*now, &self.nursery) {
            Taken::Ready(lease) => lease,
            Taken::Quarantined => return Err(quarantined()),
            Taken::Wait(receiver) => {
                let answer = receiver.await;
                *now = Instant::now();
                // No answer: the nursery has ended.
                answer.unwrap_or_else(|_| Err(no_slot()))?
            }
        };
        let instance = lease.instance().ok_or_else(no_slot)?;
        let result = run(lane, case, draft, instance);
        lease.end(&case.outcome(&result), *now);
        result
    }

    /// The same in an instance of its own.
    fn ask_fresh(
        &self,
        lane: &Arc<Lane>,
        case: &Case<'_>,
        draft: &Draft,
        now: Instant,
    ) -> Result<Verdict, Fault> {
        if !lane.admit(now) {
            return Err(quarantined());
        }
        let binding = lane.binding();
        let module = binding.module.as_ref().map_err(Clone::clone)?;
        let _slot = self.slots.now(lane).ok_or_else(no_slot)?;
        let before = sys::thread_cpu();
        let mut started = module.start(&binding.config, &binding.limits);
        while matches!(&started, Err(fault) if fault.class == FaultClass::NoSlot)
            && self.slots.evict()
        {
            started = module.start(&binding.config, &binding.limits);
        }
        let cost = sys::thread_cpu().saturating_sub(before);
        lane.budget.charge(binding.shadow, cost);
        match started {
            Ok(mut instance) => {
                lane.core.log_lines(&mut instance);
                let result = run(lane, case, draft, &mut instance);
                lane.record(&case.outcome(&result), now);
                result
            }
            Err(fault) => {
                if fault.class != FaultClass::NoSlot {
                    lane.record(&Outcome::CannotStart, now);
                }
                Err(fault)
            }
        }
    }

    /// What a result means for the message: nothing, a change, or a block.
    fn conclude(
        &self,
        core: &Core,
        case: &Case<'_>,
        draft: &mut Draft,
        result: Result<Verdict, Fault>,
        now: Instant,
    ) -> Option<Block> {
        let binding = &*core.binding;
        let (code, class, text) = match result {
            Ok(Verdict::Allow) => return None,
            Ok(Verdict::Transform(rewrite)) => {
                if !binding.shadow {
                    apply(rewrite, draft);
                }
                return None;
            }
            Ok(Verdict::Block(reason)) => (ErrorCode::PolicyBlocked, "verdict", reason),
            Err(Fault { class, detail }) if class.is_of_message() => {
                if !binding.shadow {
                    case.sender.fault(now);
                }
                (ErrorCode::PolicyFault, class.as_str(), detail)
            }
            Err(Fault { class, detail }) => (ErrorCode::PolicyUnavailable, class.as_str(), detail),
        };
        self.audit(case, binding, class, &text);
        if binding.shadow {
            return None;
        }
        let tells = binding.show_reason && code == ErrorCode::PolicyBlocked;
        Some(Block {
            code,
            class,
            shown: tells.then(|| Shown {
                binding: binding.name.clone(),
                reason: text,
            }),
        })
    }

    fn audit(&self, case: &Case<'_>, binding: &Binding, class: &'static str, text: &str) {
        let subject = &case.subject;
        let key = AuditKey {
            session: subject.session,
            binding: Arc::clone(&binding.key),
            class,
        };
        self.audit.record(key, |time_ms| AuditEvent {
            time_ms,
            tenant: subject.tenant.clone(),
            room: subject.room.clone(),
            user: subject.user.clone(),
            session: subject.session,
            binding: Arc::clone(&binding.key),
            policy: binding.policy.clone(),
            version: binding.version,
            class,
            reason: cut(text, MAX_AUDIT_REASON_BYTES).to_owned(),
            payload_digest: Digest::of(&case.payload),
            payload_bytes: case.payload.len(),
            count: 1,
            shadow: binding.shadow,
        });
    }
}

impl<'a> Case<'a> {
    fn outcome(&self, result: &Result<Verdict, Fault>) -> Outcome<'a> {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Fault(self.subject.session, self.subject.user),
        }
    }
}

/// One run, with its cost and its log lines, and a verdict that is legal.
fn run(
    lane: &Lane,
    case: &Case<'_>,
    draft: &Draft,
    instance: &mut Instance,
) -> Result<Verdict, Fault> {
    let binding = lane.binding();
    let message = Message {
        tenant: case.subject.tenant.as_str(),
        room: case.subject.room.as_str(),
        user: case.subject.user.as_str(),
        role: case.subject.role,
        draft,
    };
    let Ran { result, cost } = instance.run(&message, &binding.limits);
    lane.budget.charge(binding.shadow, cost);
    lane.core.counters.cost(cost);
    lane.core.log_lines(instance);
    let verdict = result?;
    if let Verdict::Transform(rewrite) = &verdict {
        legal(rewrite, case.caps)?;
    }
    Ok(verdict)
}

fn legal(rewrite: &Rewrite, caps: &Caps) -> Result<(), Fault> {
    let illegal = |detail: &str| Err(Fault::new(FaultClass::BadVerdict, detail));
    if let Some(payload) = &rewrite.payload
        && payload.len() > caps.max_payload
    {
        return illegal("a change to a payload over the limit");
    }
    let Some(headers) = &rewrite.headers else {
        return Ok(());
    };
    // A client may send these two; to a policy they are not shown, so it has
    // none to give back.
    if headers.contains_key(X_TWIST_ID) || headers.contains_key(TRACEPARENT) {
        return illegal("a change to headers of the platform");
    }
    match check_client_headers(headers, &caps.headers) {
        Ok(_) => Ok(()),
        Err(ErrorCode::HeaderReserved) => illegal("a change to headers of the platform"),
        Err(ErrorCode::HeadersTooLarge) => illegal("a change to headers over the limits"),
        Err(_) => illegal("a change to headers that are none"),
    }
}

fn apply(rewrite: Rewrite, draft: &mut Draft) {
    if let Some(payload) = rewrite.payload {
        draft.payload = payload;
    }
    if let Some(headers) = rewrite.headers {
        draft.headers = headers;
    }
}

fn no_slot() -> Fault {
    Fault::new(FaultClass::NoSlot, "no slot came free")
}
