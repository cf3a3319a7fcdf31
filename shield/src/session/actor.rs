//! One client connection from its upgrade to its end: a future, one per task.
//!
//! Each poll goes through the same steps: requests (the one under way, then the
//! socket), the outbox (all that waits in vectored writes), the one timer. A
//! request that takes time never stops the writing side, and the next frame is
//! read only after its outcome, so a client's frames take effect in order.
//! Whatever ends a session, rooms are left and it is unregistered exactly once.

mod traces;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use arqon_policy::{Sender, Shown};
use arqon_proto::{
    codes::{CloseCode, ErrorCode},
    envelope::{self, ClientFault},
    json,
    names::{RoomId, SessionId},
    v1::{self, Opcode},
};
use arqon_telemetry::{
    TraceContext,
    labels::{CloseReason, Code},
    metrics::TenantMeter,
    trace::Kind,
};
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Sleep,
};

use super::{
    arrival::Arrival,
    context::SessionContext,
    ending::{End, Ending, LINGER},
    farewell::Farewell,
    frame::{Encoding, Frame},
    gate::Gate,
    outbox::{Entry, Load, Outbox, Take},
    registry::Registration,
    state::{
        Action, Actions, EnterRequest, MetaRequest, Now, PresenceRequest, PublishRequest, Refusal,
        State,
    },
    timers::{Due, Timers, TokenLife},
    wire::{CLOSE_TOO_BIG, Inbound, Wire},
    work::{self, Outcome, Work},
};
use crate::{auth::Identity, presence::Entrant, quota::Place, spine::TenantLink};

/// Requests of one client handled in a row before others have their turn.
const READS_PER_POLL: usize = 32;
/// Batches written in a row before the client is read again.
const BATCHES_PER_POLL: usize = 8;
/// A session is told to be active at most this often.
const ACTIVE_EVERY: Duration = Duration::from_secs(15);
/// Pause after which unconfirmed publishes are counted again. Their answers
/// wake the session anyway, mostly.
const UNCONFIRMED_PAUSE: Duration = Duration::from_millis(20);

/// The future of one session. Ends when the connection is closed.
pub struct Session<S> {
    wire: Wire<S>,
    batch: VecDeque<Entry>,
    /// Of frames written, what the outbox has not been told.
    written: Load,
    outbox: Arc<Outbox>,
    state: State,
    timers: Timers,
    timer: Pin<Box<Sleep>>,
    /// Since when the socket takes nothing.
    stalled: Option<Instant>,
    /// When it was last told that the session does something.
    marked: Instant,
    /// The request under way.
    work: Option<Work>,
    /// The tenant's way to the Spine, once needed.
    link: Option<Arc<TenantLink>>,
    /// What policies remember of this session, once one judged it.
    sender: Option<Arc<Sender>>,
    /// Publishes whose ACK is owed, once any was wanted.
    unconfirmed: Option<Arc<AtomicU32>>,
    /// When the oldest message of the batch was published; 0 if there is none.
    batch_sent_us: u64,
    /// What the tenant's sessions count on.
    meter: Arc<TenantMeter>,
    /// The session's own span, for its log lines.
    trace: Option<Box<TraceContext>>,
    /// Once it ends for everyone but the socket.
    ending: Option<Ending>,
    /// A slow reader waits to learn why it is closed.
    farewell: Option<Farewell>,
    registration: Option<Registration>,
    /// Among the sessions that the tenant may have.
    place: Option<Place>,
    ctx: Arc<SessionContext>,
}

/// What actions follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A frame of the client: no span was begun for it.
    Frame,
    /// A request that took time and has told its own fate, with its span where it is sampled.
    Request(Option<TraceContext>),
}

// === impl Session ===

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Starts the session of a socket whose upgrade was accepted. `read_ahead`
    /// is what was read behind the handshake.
    pub fn new(
        socket: S,
        read_ahead: Bytes,
        identity: Identity,
        place: Place,
        arrival: &Arrival,
        ctx: Arc<SessionContext>,
    ) -> Self {
        let now = now();
        let session = SessionId::new();
        let encoding = arrival.encoding;
        let outbox = Outbox::new(session, &identity.tenant.id, ctx.outbox.clone());
        let outbox = Arc::new(outbox.speaking(encoding));
        let state = State::new(session, identity, ctx.limits.clone(), place.quota().clone());
        let first_ping = ctx.heartbeat.mul_f64(rand::random_range(0.5..1.0));
        let life = token_life(state.identity(), ctx.token_grace, now);
        let mut timers = Timers::new(ctx.heartbeat, first_ping, life, now.instant);
        timers.expect_frame(now.instant + ctx.first_frame_timeout);
        let welcome = state.welcome(ctx.heartbeat, &ctx.shield_id, now);
        outbox.push_own(Frame::envelope(&welcome));
        // Whoever only listens answers this, and so is heard in time.
        outbox.push_own(Frame::ping());
        ctx.metrics.sessions_opened.inc();
        ctx.metrics.sessions.inc();
        if encoding == Encoding::Json {
            ctx.metrics.json_sessions.inc();
        }
        let meter = ctx.metrics.tenants().of(&state.identity().tenant.id);
        meter.opened.fetch_add(1, Ordering::Relaxed);
        let max_frame = encoding.max_frame(ctx.limits.max_frame_bytes as usize);
        let mut this = Self {
            wire: Wire::new(socket, read_ahead, max_frame),
            batch: VecDeque::new(),
            written: Load::default(),
            timer: Box::pin(tokio::time::sleep_until(timers.next().into())),
            outbox,
            state,
            timers,
            stalled: None,
            marked: now.instant,
            work: None,
            link: None,
            sender: None,
            unconfirmed: None,
            batch_sent_us: 0,
            meter,
            trace: None,
            ending: None,
            farewell: None,
            registration: None,
            place: Some(place),
            ctx,
        };
        this.register();
        this.connected(arrival);
        this
    }

    /// Registered first and checked after, so that no order for a whole tenant
    /// and no revocation slips between the check of the token and the registration.
    fn register(&mut self) {
        let identity = self.state.identity();
        let registration = self.ctx.sessions.register(identity, &self.outbox);
        self.registration = Some(registration);
        let tenant = &identity.tenant;
        let same = |now: &crate::control::Tenant| {
            now.record.created_at_ms == tenant.record.created_at_ms
                && now.record.state == tenant.record.state
        };
        match self.ctx.tenants.get(&tenant.id) {
            // Its limits may have changed while the token was judged by an older record.
            Some(now) if same(&now) => self.ctx.pool.quotas().update(&now),
            _ => self.outbox.close(CloseCode::TenantGone),
        }
        self.close_if_revoked();
    }

    fn close_if_revoked(&self) {
        if self.ctx.verifier.is_revoked(self.state.identity()) {
            self.outbox.cut(CloseCode::TokenRevokedClose);
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Poll::Ready(end) = self.poll_requests(cx) {
                return Poll::Ready(end);
            }
            let paused = self.is_paused() || self.wire.is_clogged();
            if let Poll::Ready(end) = self.poll_outbox(cx) {
                return Poll::Ready(end);
            }
            // What was written may end a pause, for which nothing else wakes.
            let resumed = paused && !self.is_paused() && !self.wire.is_clogged();
            match self.poll_timer(cx) {
                Poll::Ready(Some(end)) => return Poll::Ready(end),
                Poll::Pending if !resumed => return Poll::Pending,
                _ => {}
            }
        }
    }

    /// Handles what the client asks for.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut spoke = false;
        let end = self.poll_reads(cx, &mut spoke);
        if spoke {
            self.timers.heard(Instant::now());
        }
        let heard = self.wire.take_heard();
        if heard > 0 {
            self.ctx.counters.bytes_in(heard);
            self.meter.bytes_in.fetch_add(heard, Ordering::Relaxed);
        }
        end
    }

    /// `spoke`: whether a message or a control frame came whole. Mere bytes are no
    /// sign of life, so who trickles them is closed as if silent.
    fn poll_reads(&mut self, cx: &mut Context<'_>, spoke: &mut bool) -> Poll<End> {
        for _ in 0..READS_PER_POLL {
            if let Some(work) = &mut self.work {
                let Poll::Ready(outcome) = work.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                self.work = None;
                self.on_outcome(outcome);
                continue;
            }
            if self.is_paused() {
                return Poll::Pending;
            }
            let Poll::Ready(inbound) = self.wire.poll_read(cx) else {
                return Poll::Pending;
            };
            *spoke = true;
            let actions = match (inbound, self.outbox.encoding()) {
                (Inbound::Binary(bytes), Encoding::Binary) => {
                    self.on_decoded(envelope::decode_client(bytes))
                }
                (Inbound::Text(text), Encoding::Json) => self.on_json(&text),
                (Inbound::Text(_), Encoding::Binary) => {
                    self.state.on_other_kind(ErrorCode::TextFrame, now())
                }
                (Inbound::Binary(_), Encoding::Json) => {
                    self.state.on_other_kind(ErrorCode::BinaryFrame, now())
                }
                (Inbound::Control, _) => continue,
                (Inbound::Close(code), _) => return Poll::Ready(End::Client(code)),
                (Inbound::Illegal(code), _) => return Poll::Ready(End::Illegal(code)),
                (Inbound::Lost, _) => return Poll::Ready(End::Lost),
            };
            self.perform(actions, Cause::Frame);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether no request is read at the moment.
    fn is_paused(&self) -> bool {
        self.work.is_some()
            || self.outbox.is_closing()
            || self.outbox.is_congested()
            || self.is_unconfirmed()
    }

    /// Whether too many ACKs are owed to publish more.
    fn is_unconfirmed(&self) -> bool {
        let owed = self.unconfirmed.as_ref();
        owed.is_some_and(|owed| owed.load(Ordering::Acquire) >= self.ctx.max_unconfirmed)
    }

    fn on_json(&mut self, text: &[u8]) -> Actions {
        let decoded = json::decode_client(text, self.ctx.limits.max_frame_bytes as usize);
        if let Err(fault) = &decoded
            && fault.code == ErrorCode::JsonInvalid
        {
            self.ctx.metrics.json_faults.inc();
        }
        self.on_decoded(decoded)
    }

    fn on_decoded(&mut self, decoded: Result<v1::Envelope, ClientFault>) -> Actions {
        match decoded {
            Ok(envelope) => {
                self.ctx.counters.frame_in(envelope.op());
                self.state.on_envelope(envelope, now())
            }
            Err(fault) => {
                self.ctx.counters.frame_in(Opcode::Unspecified);
                self.state.on_fault(fault, now())
            }
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        let (actions, cause) = match outcome {
            Outcome::Joined {
                request,
                result,
                link,
                cause,
            } => {
                self.link = link;
                (self.state.on_joined(request, result), cause)
            }
            Outcome::Published {
                room,
                reference,
                result,
                link,
                cause,
            } => {
                self.link = link;
                if result.is_ok() {
                    self.meter.messages_in.fetch_add(1, Ordering::Relaxed);
                    self.trace_activity(&room, cause);
                }
                let actions = self.state.on_published(&room, reference, result, now());
                (actions, cause)
            }
            Outcome::Refreshed { reference, result } => {
                (self.state.on_refreshed(reference, *result, now()), None)
            }
        };
        self.perform(actions, Cause::Request(cause));
    }

    fn perform(&mut self, actions: Actions, cause: Cause) {
        for action in actions {
            match action {
                Action::Send(envelope) => self.outbox.push_own(Frame::envelope(&envelope)),
                Action::Refuse(refusal) => {
                    if cause == Cause::Frame {
                        self.trace_refusal(&refusal);
                    }
                    self.refuse(refusal);
                }
                Action::Leave(room) => self.leave(&room),
                Action::Join(request) => {
                    let member = work::member(&self.outbox, request.echo);
                    let joined = Frame::envelope(&request.joined());
                    let tracer = self.ctx.metrics.tracer();
                    let parent = request.parent;
                    let span = tracer.begin("shield.join", Kind::Server, &self.meter, parent, || 1);
                    self.work = Some(work::join(self.way(), request, member, joined, span));
                }
                Action::Publish(mut request) => {
                    let span = self.begin_publish(&mut request);
                    self.mark_active(&request.room);
                    let unconfirmed = request.ack.then(|| {
                        let count = self.unconfirmed.get_or_insert_default();
                        count.fetch_add(1, Ordering::AcqRel);
                        count.clone()
                    });
                    let gate = self.gate();
                    let outbox = &self.outbox;
                    self.work = Some(work::publish(
                        self.way(),
                        gate,
                        *request,
                        outbox,
                        unconfirmed,
                        span,
                        self.ctx.metrics.clone(),
                    ));
                }
                Action::Refresh(request) => {
                    let verifier = self.ctx.verifier.clone();
                    let tenants = self.ctx.tenants.clone();
                    self.work = Some(work::refresh(verifier, tenants, request));
                }
                Action::Enter(request) => {
                    let Cause::Request(cause) = cause else {
                        continue;
                    };
                    self.enter(request, cause);
                }
                Action::SetMeta(request) => self.set_meta(request),
                Action::AskPresence(request) => self.ask_presence(&request),
                Action::TokenChanged => {
                    let now = now();
                    let life = token_life(self.state.identity(), self.ctx.token_grace, now);
                    self.timers.set_token(life, now.instant);
                    self.set_timer();
                    // As at the start: told first and checked after.
                    if let Some(registration) = &self.registration {
                        registration.set_identity(self.state.identity());
                    }
                    self.close_if_revoked();
                }
                Action::Close(code) => self.outbox.close(code),
            }
        }
    }

    fn refuse(&self, refusal: Refusal) {
        let Refusal {
            code,
            room,
            reference,
            retry_after_ms,
            detail,
            shown,
        } = refusal;
        let label = Code(code.name());
        self.ctx.metrics.errors.get_or_create(&label).inc();
        self.meter.errors.fetch_add(1, Ordering::Relaxed);
        if is_quota(code) {
            self.ctx.metrics.quota_hits.get_or_create(&label).inc();
        }
        let error = match shown {
            None => envelope::error(code, &room, reference, detail, retry_after_ms),
            Some(Shown { binding, reason }) => {
                envelope::blocked(code, &room, reference, binding, reason)
            }
        };
        self.outbox.push_own(Frame::envelope(&error));
    }

    fn enter(&self, request: EnterRequest, cause: Option<TraceContext>) {
        let Some(link) = &self.link else {
            return;
        };
        link.presence().enter(Entrant {
            room: request.room,
            user: self.state.identity().user.clone(),
            outbox: self.outbox.clone(),
            mode: request.mode,
            meta: request.meta,
            reference: request.reference,
            cause,
        });
    }

    fn set_meta(&self, request: MetaRequest) {
        let MetaRequest {
            room,
            reference,
            meta,
        } = request;
        let (session, user) = (self.outbox.session(), &self.state.identity().user);
        let set = match &self.link {
            Some(link) => link.presence().set_meta(&room, session, user, meta),
            None => Err(ErrorCode::PresenceUnavailable),
        };
        self.tell_refused(set, &room, reference);
    }

    fn ask_presence(&self, request: &PresenceRequest) {
        let PresenceRequest {
            room,
            reference,
            count_only,
        } = request;
        let asked = match &self.link {
            Some(link) => {
                let presence = link.presence();
                presence.get(room, &self.outbox, *reference, *count_only)
            }
            None => Err(ErrorCode::PresenceUnavailable),
        };
        self.tell_refused(asked, room, *reference);
    }

    fn tell_refused(&self, result: Result<(), ErrorCode>, room: &RoomId, reference: u64) {
        if let Err(code) = result {
            self.refuse(Refusal::new(code, room.to_string(), reference));
        }
    }

    /// Says now and then that the session does something.
    fn mark_active(&mut self, room: &RoomId) {
        let now = Instant::now();
        if now < self.marked + ACTIVE_EVERY {
            return;
        }
        self.marked = now;
        if let Some(link) = &self.link {
            link.presence().active(room, self.outbox.session());
        }
    }

    fn way(&self) -> work::Way {
        work::Way {
            pool: self.ctx.pool.clone(),
            tenant: self.state.identity().tenant.clone(),
            link: self.link.clone(),
            meter: self.meter.clone(),
        }
    }

    /// The way through the policies; none, where the tenant has none.
    fn gate(&mut self) -> Option<Gate> {
        let tenant = &self.state.identity().tenant.id;
        if !self.ctx.policies.binds(tenant) {
            return None;
        }
        Some(Gate {
            policies: self.ctx.policies.clone(),
            tenants: self.ctx.tenants.clone(),
            sender: self.sender.get_or_insert_default().clone(),
        })
    }

    /// Writes all that waits.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..BATCHES_PER_POLL {
            match self.wire.poll_write(cx, &mut self.batch, &mut self.written) {
                Poll::Ready(Ok(())) => {
                    self.stalled = None;
                    self.observe_delivery();
                }
                Poll::Ready(Err(_)) => return Poll::Ready(End::Lost),
                Poll::Pending => {
                    self.on_stall(cx);
                    return Poll::Pending;
                }
            }
            let written = self.take_written();
            match self.outbox.take(cx, written, &mut self.batch) {
                Take::Frames => {
                    let sent = self.batch.iter().find_map(|entry| entry.frame.sent_us());
                    self.batch_sent_us = sent.unwrap_or(0);
                }
                Take::Close(code) => return Poll::Ready(End::Code(code)),
                Take::Empty => {
                    return match self.wire.poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(End::Lost),
                        _ => Poll::Pending,
                    };
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn on_stall(&mut self, cx: &mut Context<'_>) {
        let written = self.take_written();
        self.outbox.stall(cx, written);
        // Who is being closed wins no time by reading a little now and then.
        let progressed = self.wire.take_progress() && !self.outbox.is_closing();
        if progressed || self.stalled.is_none() {
            self.stalled = Some(Instant::now());
        }
        self.set_timer();
    }

    fn take_written(&mut self) -> Load {
        let written = std::mem::take(&mut self.written);
        if written != Load::default() {
            self.ctx.counters.written(written);
            let meter = &self.meter;
            meter
                .messages_out
                .fetch_add(written.messages.into(), Ordering::Relaxed);
            meter
                .bytes_out
                .fetch_add(written.bytes(), Ordering::Relaxed);
        }
        written
    }

    /// Does what is due. Ready if anything was, or with the end.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        if self.is_unconfirmed() {
            self.set_timer();
        }
        ready!(self.timer.as_mut().poll(cx));
        let now = Instant::now();
        if self
            .stalled
            .is_some_and(|since| now >= since + self.patience())
        {
            self.outbox.close(CloseCode::SlowReader);
            // For any other reason nothing can be told to a client that takes nothing.
            return Poll::Ready(Some(match self.outbox.closing() {
                Some(CloseCode::SlowReader) => End::Code(CloseCode::SlowReader),
                _ => End::Lost,
            }));
        }
        if self.is_paused() {
            // Whoever is not listened to cannot be heard.
            self.timers.heard(now);
        }
        while let Some(due) = self.timers.due(now) {
            match due {
                // A stalled socket has more than a ping to answer.
                Due::Ping if self.stalled.is_some() => {}
                Due::Ping => self.wire.push_ping(),
                Due::TokenExpiring => {
                    let expiring = Frame::envelope(&self.state.token_expiring());
                    self.outbox.push_own(expiring);
                }
                Due::HeartbeatLost | Due::FirstFrameMissed | Due::TokenExpired => {
                    self.outbox.close(match due {
                        Due::HeartbeatLost => CloseCode::HeartbeatLost,
                        Due::FirstFrameMissed => CloseCode::FirstFrameMissed,
                        _ => CloseCode::TokenExpiredClose,
                    });
                    break;
                }
            }
        }
        self.outbox.trim();
        self.batch.shrink_to(0);
        self.set_timer();
        Poll::Ready(None)
    }

    /// How long a socket may take nothing.
    fn patience(&self) -> Duration {
        match self.outbox.is_closing() {
            true => LINGER.min(self.ctx.write_timeout),
            false => self.ctx.write_timeout,
        }
    }

    /// Sets the timer to what comes first, if that is before what it waits for.
    fn set_timer(&mut self) {
        let mut next = self.timers.next();
        if let Some(since) = self.stalled {
            next = next.min(since + self.patience());
        }
        if self.is_unconfirmed() {
            next = next.min(Instant::now() + UNCONFIRMED_PAUSE);
        }
        let next = next.into();
        if next < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
    }

    /// Ends the session for everyone but the socket, and says why on it.
    fn begin_close(&mut self, end: End) -> Poll<()> {
        let gave_up = end == End::Lost && self.outbox.is_closing();
        self.finish(match (end, self.outbox.closing()) {
            (End::Lost, Some(code)) if gave_up => code.name(),
            (End::Code(code), _) => code.name(),
            (End::Client(_), _) => "client",
            (End::Illegal(CLOSE_TOO_BIG), _) => "message_too_big",
            (End::Illegal(_), _) => "protocol",
            (End::Lost, _) => "connection_lost",
        });
        if end == End::Code(CloseCode::SlowReader) {
            let waiting = &self.ctx.metrics.farewells;
            let farewells = self.ctx.sessions.farewells();
            let tenant = &self.state.identity().tenant.id;
            self.farewell = farewells.begin(tenant, self.ctx.farewell, waiting);
        }
        self.timer.as_mut().reset((Instant::now() + LINGER).into());
        self.ending = Ending::begin(end, &mut self.wire, &mut self.batch);
        match self.ending {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        }
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let over = match &mut self.farewell {
            Some(farewell) => farewell.as_mut().poll(cx),
            None => self.timer.as_mut().poll(cx),
        };
        if over.is_ready() {
            return Poll::Ready(());
        }
        let Some(ending) = &mut self.ending else {
            return Poll::Ready(());
        };
        let told = ending.is_sent();
        let over = ending.poll(&mut self.wire, cx, &mut self.batch, &mut self.written);
        if !told && ending.is_sent() && self.farewell.take().is_some() {
            // Told: what is left to wait for is the answer.
            self.timer.as_mut().reset((Instant::now() + LINGER).into());
            cx.waker().wake_by_ref();
        }
        over
    }
}

impl<S> Session<S> {
    /// Leaves all rooms, unregisters, counts. Does nothing the second time.
    fn finish(&mut self, reason: &'static str) {
        let Some(registration) = self.registration.take() else {
            return;
        };
        drop(registration);
        self.place = None;
        // A JOIN under way leaves by itself.
        self.work = None;
        for room in self.state.rooms() {
            self.leave(room);
        }
        self.link = None;
        self.outbox.end();
        let metrics = &self.ctx.metrics;
        metrics.sessions.dec();
        if self.outbox.encoding() == Encoding::Json {
            metrics.json_sessions.dec();
        }
        let reason = CloseReason(reason);
        metrics.sessions_closed.get_or_create(&reason).inc();
        self.meter.closed.fetch_add(1, Ordering::Relaxed);
        let (tenant, session) = (&self.state.identity().tenant.id, self.outbox.session());
        match &self.trace {
            Some(own) => {
                let (trace_id, span_id) = (own.trace(), own.span());
                tracing::debug!(%tenant, %session, trace_id, span_id, reason = reason.0, "Session closed");
            }
            None => tracing::debug!(%tenant, %session, reason = reason.0, "Session closed"),
        }
    }

    fn leave(&self, room: &RoomId) {
        if let Some(link) = &self.link {
            link.leave(room, self.outbox.session());
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Future for Session<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.ending.is_none() {
            let Poll::Ready(end) = this.poll_open(cx) else {
                return Poll::Pending;
            };
            if this.begin_close(end).is_ready() {
                return Poll::Ready(());
            }
        }
        this.poll_closing(cx)
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        // Only if the task was stopped from outside or panicked.
        self.finish("aborted");
    }
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: OffsetDateTime::now_utc(),
    }
}

/// Whether a refusal says that a limit was reached.
fn is_quota(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::RateLimited
            | ErrorCode::RoomLimit
            | ErrorCode::RoomFull
            | ErrorCode::PayloadTooLarge
            | ErrorCode::HeadersTooLarge
            | ErrorCode::MetaTooLarge
    )
}

fn token_life(identity: &Identity, grace: Duration, now: Now) -> TokenLife {
    let unix = now.wall.unix_timestamp_nanos() as f64 / 1e9;
    TokenLife::new(identity.issued_at, identity.expires_at, unix, grace)
}

#[cfg(test)]
mod tests;
