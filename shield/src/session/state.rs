//! The rules of one session: what a client may do, and what follows from it.
//!
//! Pure: envelopes and outcomes in, `Action`s out; time is an argument, nothing
//! here does input or output. The actor performs the actions in their order and
//! brings back the outcome of what takes time (`on_joined`, `on_published`,
//! `on_refreshed`). One such request is under way at a time, so the state never
//! changes between a request and its outcome.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arqon_policy::{Block, Caps, Shown};
use arqon_proto::{
    codes::{CloseCode, ErrorCode},
    envelope::{self, ClientFault},
    headers::{self, HeaderLimits},
    names::{RoomId, SessionId, TwistId, UserId},
    v1::{self, Opcode, PresenceMode, envelope::Body},
};
use time::OffsetDateTime;

use arqon_telemetry::TraceContext;

use crate::{
    auth::{Identity, Role},
    quota::{SessionUse, TenantQuota},
};

/// Offences are counted within spans of this length.
const OFFENCE_WINDOW: Duration = Duration::from_secs(60);
/// Keys of a meta.
const MAX_META_KEYS: usize = 32;
/// Longest room name that is echoed in an ERROR; no valid one is longer.
const ECHOED_ROOM_MAX: usize = 200;

/// What a session may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Bytes of one WebSocket message.
    pub max_frame_bytes: u32,
    /// Bytes of the payload of PUBLISH.
    pub max_payload_bytes: u32,
    /// Rooms it may be in.
    pub max_rooms: u32,
    /// Application headers of one message.
    pub headers: HeaderLimits,
    /// Bytes of all keys and values of a session's meta in a room.
    pub max_meta_bytes: usize,
    /// Offences within a minute that are answered; one more closes.
    pub max_offences: u32,
}

/// The moment at which something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: OffsetDateTime,
}

/// The rules' memory of one session.
#[derive(Debug)]
pub(super) struct State {
    session: SessionId,
    identity: Arc<Identity>,
    limits: Arc<SessionLimits>,
    /// What the tenant may use now.
    quota: Arc<TenantQuota>,
    /// What it has used of a session's own rates.
    used: SessionUse,
    /// Rooms joined, sorted: few, and found by bisection.
    rooms: Vec<RoomId>,
    offences: u32,
    window: Option<Instant>,
}

/// What the actor must do next.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Send this.
    Send(Box<v1::Envelope>),
    /// Send ERROR.
    Refuse(Refusal),
    /// Enter the room, then tell `on_joined`.
    Join(JoinRequest),
    /// Leave the room at the Spine.
    Leave(RoomId),
    /// Publish, then tell `on_published`.
    Publish(Box<PublishRequest>),
    /// Verify the token, then tell `on_refreshed`.
    Refresh(RefreshRequest),
    /// Take part in the presence of a room that is joined.
    Enter(EnterRequest),
    /// Replace the meta in a room.
    SetMeta(MetaRequest),
    /// Ask who is in a room.
    AskPresence(PresenceRequest),
    /// Another token is in force.
    TokenChanged,
    /// Close after all that was sent.
    Close(CloseCode),
}

/// An ERROR and its exact cause.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) room: String,
    pub(super) reference: u64,
    /// 0: not said.
    pub(super) retry_after_ms: u32,
    /// What is told in place of the code's help.
    pub(super) detail: Option<String>,
    /// The binding that blocked, and its reason, if they may be told.
    pub(super) shown: Option<Shown>,
}

/// An accepted JOIN.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JoinRequest {
    pub(super) room: RoomId,
    pub(super) reference: u64,
    pub(super) echo: bool,
    pub(super) presence: PresenceMode,
    pub(super) meta: BTreeMap<String, String>,
    /// The client's own trace.
    pub(super) parent: Option<TraceContext>,
}

/// A room whose presence to take part in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EnterRequest {
    pub(super) room: RoomId,
    pub(super) reference: u64,
    pub(super) mode: PresenceMode,
    pub(super) meta: BTreeMap<String, String>,
}

/// An accepted PRESENCE_SET.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetaRequest {
    pub(super) room: RoomId,
    pub(super) reference: u64,
    pub(super) meta: BTreeMap<String, String>,
}

/// An accepted PRESENCE_GET.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PresenceRequest {
    pub(super) room: RoomId,
    pub(super) reference: u64,
    pub(super) count_only: bool,
}

/// An accepted PUBLISH.
#[derive(Debug, PartialEq)]
pub(super) struct PublishRequest {
    pub(super) room: RoomId,
    pub(super) reference: u64,
    /// The MESSAGE Envelope, before the policies.
    pub(super) message: v1::Envelope,
    /// Its publisher, for the policies.
    pub(super) publisher: Publisher,
    /// Payload and headers that the tenant and the session may have.
    pub(super) caps: Caps,
    pub(super) twist: TwistId,
    pub(super) ack: bool,
    /// When it came.
    pub(super) at: Now,
    /// The client's own trace.
    pub(super) parent: Option<TraceContext>,
}

/// Who publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publisher {
    pub(super) user: UserId,
    pub(super) session: SessionId,
    pub(super) role: Role,
}

/// Why a message is not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unpublished {
    /// For this code.
    Code(ErrorCode),
    /// By a policy.
    Blocked(Block),
    /// Too much was asked of the policies; it may be tried again after this.
    Limited(Duration),
}

/// Why a room is not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unjoined {
    /// For this code.
    Code(ErrorCode),
    /// The tenant joins too fast; it may be tried again after this.
    Limited(Duration),
}

/// Why a request about a room is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejected {
    /// For this code.
    Code(ErrorCode),
    /// For this code, by a limit of the tenant's own, which is no offence.
    Quota(ErrorCode),
    /// A rate is used up; it may be tried again after this.
    Later(Duration),
}

impl From<ErrorCode> for Rejected {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

/// A REFRESH to verify.
#[derive(PartialEq, Eq)]
pub(super) struct RefreshRequest {
    pub(super) token: String,
    pub(super) reference: u64,
}

/// The actions that follow from one event: mostly one, so none is allocated for.
#[derive(Debug, Default)]
pub(super) struct Actions {
    first: Option<Action>,
    rest: Vec<Action>,
}

// === impl State ===

impl State {
    /// A session that was accepted with this identity.
    pub(super) fn new(
        session: SessionId,
        identity: Identity,
        limits: Arc<SessionLimits>,
        quota: Arc<TenantQuota>,
    ) -> Self {
        Self {
            session,
            identity: Arc::new(identity),
            limits,
            quota,
            used: SessionUse::default(),
            rooms: Vec::new(),
            offences: 0,
            window: None,
        }
    }

    /// Who the client is now.
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Rooms the session is in.
    pub(super) fn rooms(&self) -> &[RoomId] {
        &self.rooms
    }

    /// What the session is told at its start.
    pub(super) fn welcome(&self, heartbeat: Duration, shield_id: &str, now: Now) -> v1::Envelope {
        envelope::welcome(v1::Welcome {
            session_id: self.session.to_string(),
            user: self.identity.user.to_string(),
            tenant: self.identity.tenant.id.to_string(),
            protocol_version: 1,
            limits: Some(v1::Limits {
                max_payload_bytes: self.max_payload(),
                max_frame_bytes: self.limits.max_frame_bytes,
                max_rooms: self.max_rooms(),
                max_headers: self.limits.headers.max_headers as u32,
                max_header_bytes: self.headers().max_header_bytes as u32,
            }),
            heartbeat_secs: heartbeat.as_secs().max(1) as u32,
            server_time_ms: (now.wall.unix_timestamp_nanos() / 1_000_000) as u64,
            token_expires_at: self.identity.expires_at,
            features: vec!["presence".to_owned()],
            shield_id: shield_id.to_owned(),
        })
    }

    /// A frame of the kind came that this session does not speak: `TEXT_FRAME`
    /// or `BINARY_FRAME`.
    pub(super) fn on_other_kind(&mut self, code: ErrorCode, now: Now) -> Actions {
        self.offence(code, String::new(), 0, now)
    }

    /// A frame came that is no Envelope of a client.
    pub(super) fn on_fault(&mut self, fault: ClientFault, now: Now) -> Actions {
        let ClientFault {
            code,
            room,
            reference,
            detail,
        } = fault;
        self.offence_of(
            Refusal {
                detail,
                ..Refusal::new(code, room, reference)
            },
            now,
        )
    }

    /// A well-formed Envelope of a client came.
    pub(super) fn on_envelope(&mut self, envelope: v1::Envelope, now: Now) -> Actions {
        match envelope.op() {
            Opcode::Ping => Action::send(envelope::pong(envelope.r#ref, envelope.payload)).into(),
            Opcode::Refresh => match envelope.body {
                Some(Body::Refresh(refresh)) => Action::Refresh(RefreshRequest {
                    token: refresh.token,
                    reference: envelope.r#ref,
                })
                .into(),
                _ => self.offence(
                    ErrorCode::ProtocolMismatch,
                    envelope.room,
                    envelope.r#ref,
                    now,
                ),
            },
            op @ (Opcode::Join
            | Opcode::Leave
            | Opcode::Publish
            | Opcode::PresenceGet
            | Opcode::PresenceSet) => match RoomId::parse(&envelope.room) {
                Ok(room) => self.on_room(op, room, envelope, now),
                Err(_) => self.offence(
                    ErrorCode::RoomNameInvalid,
                    envelope.room,
                    envelope.r#ref,
                    now,
                ),
            },
            _ => self.offence(ErrorCode::UnknownOpcode, envelope.room, envelope.r#ref, now),
        }
    }

    /// The Spine took or refused a room. JOINED is queued already if it took it.
    pub(super) fn on_joined(
        &mut self,
        request: JoinRequest,
        result: Result<(), Unjoined>,
    ) -> Actions {
        let JoinRequest {
            room,
            reference,
            presence,
            meta,
            ..
        } = request;
        match result {
            Ok(()) => {}
            Err(Unjoined::Code(code)) => return refuse(code, room.as_str(), reference).into(),
            Err(Unjoined::Limited(wait)) => {
                return Action::Refuse(Refusal::limited(wait, &room, reference)).into();
            }
        }
        let mut actions = Actions::default();
        if presence != PresenceMode::None {
            actions.push(Action::Enter(EnterRequest {
                room: room.clone(),
                reference,
                mode: presence,
                meta,
            }));
        }
        if let Err(at) = self.rooms.binary_search(&room) {
            self.rooms.insert(at, room);
        }
        actions
    }

    /// The Spine took or refused a message. What was taken is acknowledged by
    /// the owner of the barrier, if at all.
    pub(super) fn on_published(
        &mut self,
        room: &RoomId,
        reference: u64,
        result: Result<(), Unpublished>,
        now: Now,
    ) -> Actions {
        match result {
            Ok(()) => Actions::default(),
            Err(Unpublished::Code(code @ ErrorCode::PayloadTooLarge)) => {
                self.offence(code, room.to_string(), reference, now)
            }
            Err(Unpublished::Code(code)) => refuse(code, room.as_str(), reference).into(),
            // No offence: a client need not know the policies.
            Err(Unpublished::Blocked(Block { code, shown, .. })) => Action::Refuse(Refusal {
                shown,
                ..Refusal::new(code, room.to_string(), reference)
            })
            .into(),
            Err(Unpublished::Limited(wait)) => {
                Action::Refuse(Refusal::limited(wait, room, reference)).into()
            }
        }
    }

    /// A new token was verified, or not.
    pub(super) fn on_refreshed(
        &mut self,
        reference: u64,
        result: Result<Identity, ErrorCode>,
        now: Now,
    ) -> Actions {
        let same = |new: &Identity| {
            new.tenant.id == self.identity.tenant.id && new.user == self.identity.user
        };
        let identity = match result {
            Ok(identity) if same(&identity) => identity,
            Ok(_) => return self.offence(ErrorCode::TokenMismatch, String::new(), reference, now),
            // Each try costs a signature check, so guessing has an end.
            Err(code) if code.needs_new_token() => {
                return self.offence(code, String::new(), reference, now);
            }
            Err(code) => return refuse(code, "", reference).into(),
        };
        self.identity = Arc::new(identity);
        let expires_at = self.identity.expires_at;
        let mut actions = Actions::default();
        actions.push(Action::TokenChanged);
        actions.push(Action::send(envelope::refreshed(reference, expires_at)));
        let grants = &self.identity.rooms;
        let (kept, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.rooms)
            .into_iter()
            .partition(|room| grants.may_join(room));
        self.rooms = kept;
        for room in lost {
            let left = envelope::left(room.as_str(), 0, Some(ErrorCode::JoinForbidden));
            actions.push(Action::Leave(room));
            actions.push(Action::send(left));
        }
        actions
    }

    /// What the session must be told before its token expires.
    pub(super) fn token_expiring(&self) -> v1::Envelope {
        envelope::token_expiring(self.identity.expires_at)
    }

    fn on_room(&mut self, op: Opcode, room: RoomId, envelope: v1::Envelope, now: Now) -> Actions {
        let reference = envelope.r#ref;
        let result = match op {
            Opcode::Join => {
                let parent = parent_of(&envelope.headers);
                self.join(&room, reference, envelope.body, parent)
            }
            Opcode::Leave => self.leave(&room, reference),
            Opcode::Publish => self.publish(&room, envelope, now),
            _ => self.presence(&room, reference, envelope.body, now),
        };
        match result {
            Ok(actions) => actions,
            Err(Rejected::Later(wait)) => {
                Action::Refuse(Refusal::limited(wait, &room, reference)).into()
            }
            Err(Rejected::Code(code)) if is_offence(code) => {
                self.offence(code, room.to_string(), reference, now)
            }
            Err(Rejected::Code(code) | Rejected::Quota(code)) => {
                refuse(code, room.as_str(), reference).into()
            }
        }
    }

    fn join(
        &self,
        room: &RoomId,
        reference: u64,
        body: Option<Body>,
        parent: Option<TraceContext>,
    ) -> Result<Actions, Rejected> {
        let options = match body {
            Some(Body::Join(options)) => options,
            _ => v1::Join::default(),
        };
        self.check_meta(&options.meta)?;
        if self.is_in(room) {
            return Err(ErrorCode::AlreadyJoined.into());
        }
        if !self.identity.rooms.may_join(room) {
            return Err(ErrorCode::JoinForbidden.into());
        }
        if self.rooms.len() >= self.max_rooms() as usize {
            return Err(ErrorCode::RoomLimit.into());
        }
        let presence = match options.presence() {
            PresenceMode::Unspecified => PresenceMode::None,
            mode => mode,
        };
        Ok(Action::Join(JoinRequest {
            room: room.clone(),
            reference,
            echo: options.echo.unwrap_or(true),
            presence,
            meta: options.meta,
            parent,
        })
        .into())
    }

    fn leave(&mut self, room: &RoomId, reference: u64) -> Result<Actions, Rejected> {
        let at = self.rooms.binary_search(room);
        let at = at.map_err(|_| ErrorCode::NotJoined)?;
        let mut actions = Actions::from(Action::Leave(self.rooms.remove(at)));
        actions.push(Action::send(envelope::left(room.as_str(), reference, None)));
        Ok(actions)
    }

    fn publish(
        &self,
        room: &RoomId,
        envelope: v1::Envelope,
        now: Now,
    ) -> Result<Actions, Rejected> {
        let header_limits = self.headers();
        let bytes = self.check_size(&envelope, &header_limits)?;
        let Identity { role, rooms, .. } = &*self.identity;
        if !role.may_publish() || !rooms.may_publish(room) {
            return Err(ErrorCode::PublishForbidden.into());
        }
        if !role.may_publish_unjoined() && !self.is_in(room) {
            return Err(ErrorCode::NotJoined.into());
        }
        self.take_turn(bytes, now)?;
        let ack = matches!(&envelope.body, Some(Body::Publish(options)) if options.ack);
        let mut headers = envelope.headers;
        let parent = parent_of(&headers);
        if parent.is_none() {
            headers.remove(headers::TRACEPARENT);
        }
        let twist = stamp(&mut headers, now.wall);
        let sender = v1::Sender {
            user: self.identity.user.to_string(),
            session: self.session.to_string(),
        };
        let message = envelope::message(room.as_str(), headers, envelope.payload, sender);
        Ok(Action::Publish(Box::new(PublishRequest {
            room: room.clone(),
            reference: envelope.r#ref,
            message,
            publisher: Publisher {
                user: self.identity.user.clone(),
                session: self.session,
                role: *role,
            },
            caps: Caps {
                max_payload: self.max_payload() as usize,
                headers: header_limits,
            },
            twist,
            ack,
            at: now,
            parent,
        }))
        .into())
    }

    /// The bytes of payload and headers, if there are not too many.
    fn check_size(
        &self,
        envelope: &v1::Envelope,
        of_tenant: &HeaderLimits,
    ) -> Result<usize, Rejected> {
        let payload = envelope.payload.len();
        if payload > self.limits.max_payload_bytes as usize {
            return Err(ErrorCode::PayloadTooLarge.into());
        }
        let headers = headers::check_client_headers(&envelope.headers, &self.limits.headers)?;
        // A client cannot know that the tenant's own limits are lower now than it was told.
        if payload > self.max_payload() as usize {
            return Err(Rejected::Quota(ErrorCode::PayloadTooLarge));
        }
        if headers > of_tenant.max_header_bytes {
            return Err(Rejected::Quota(ErrorCode::HeadersTooLarge));
        }
        Ok(payload + headers)
    }

    /// Uses up what a request of so many bytes takes of the rates.
    fn take_turn(&self, bytes: usize, now: Now) -> Result<(), Rejected> {
        let taken = self.quota.publish(&self.used, bytes, now.instant);
        taken.map_err(Rejected::Later)
    }

    fn presence(
        &self,
        room: &RoomId,
        reference: u64,
        body: Option<Body>,
        now: Now,
    ) -> Result<Actions, Rejected> {
        let bytes = match &body {
            Some(Body::PresenceSet(set)) => self.check_meta(&set.meta)?,
            _ => 0,
        };
        if !self.is_in(room) {
            return Err(ErrorCode::NotJoined.into());
        }
        // It is told to all who watch, or asks a Brain that all tenants share.
        self.take_turn(bytes, now)?;
        let room = room.clone();
        let action = match body {
            Some(Body::PresenceSet(set)) => Action::SetMeta(MetaRequest {
                room,
                reference,
                meta: set.meta,
            }),
            body => Action::AskPresence(PresenceRequest {
                room,
                reference,
                count_only: matches!(body, Some(Body::PresenceGet(get)) if get.count_only),
            }),
        };
        Ok(action.into())
    }

    /// The bytes of all keys and values.
    fn check_meta(&self, meta: &BTreeMap<String, String>) -> Result<usize, ErrorCode> {
        let bytes: usize = meta
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if meta.len() > MAX_META_KEYS || bytes > self.limits.max_meta_bytes {
            return Err(ErrorCode::MetaTooLarge);
        }
        Ok(bytes)
    }

    fn is_in(&self, room: &RoomId) -> bool {
        self.rooms.binary_search(room).is_ok()
    }

    fn max_payload(&self) -> u32 {
        let of_tenant = self.quota.limits();
        lower(self.limits.max_payload_bytes, of_tenant.max_payload_bytes)
    }

    fn max_rooms(&self) -> u32 {
        let of_tenant = self.quota.limits();
        lower(self.limits.max_rooms, of_tenant.max_rooms_per_session)
    }

    fn headers(&self) -> HeaderLimits {
        let platform = self.limits.headers;
        let of_tenant = self.quota.limits().max_header_bytes;
        let platform_bytes = u32::try_from(platform.max_header_bytes).unwrap_or(u32::MAX);
        HeaderLimits {
            max_header_bytes: lower(platform_bytes, of_tenant) as usize,
            ..platform
        }
    }

    /// Refuses, and closes a client that goes on and on.
    fn offence(&mut self, code: ErrorCode, room: String, reference: u64, now: Now) -> Actions {
        self.offence_of(Refusal::new(code, room, reference), now)
    }

    fn offence_of(&mut self, mut refusal: Refusal, now: Now) -> Actions {
        if refusal.room.len() > ECHOED_ROOM_MAX {
            refusal.room = String::new();
        }
        let fresh = |start: Instant| now.instant.duration_since(start) < OFFENCE_WINDOW;
        if !self.window.is_some_and(fresh) {
            self.window = Some(now.instant);
            self.offences = 0;
        }
        self.offences += 1;
        let mut actions = Actions::from(Action::Refuse(refusal));
        if self.offences > self.limits.max_offences {
            actions.push(Action::Close(CloseCode::TooManyOffences));
        }
        actions
    }
}

/// What a client that follows the protocol never does.
fn is_offence(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::PayloadTooLarge
            | ErrorCode::HeadersTooLarge
            | ErrorCode::HeaderReserved
            | ErrorCode::HeaderInvalid
            | ErrorCode::MetaTooLarge
    )
}

fn refuse(code: ErrorCode, room: &str, reference: u64) -> Action {
    Action::Refuse(Refusal::new(code, room.to_owned(), reference))
}

/// The platform's limit, or the tenant's where that is lower; 0 is none.
fn lower(platform: u32, tenant: u32) -> u32 {
    match tenant {
        0 => platform,
        tenant => platform.min(tenant),
    }
}

/// The client's own trace; None where it says none, or none that can be read.
fn parent_of(headers: &BTreeMap<String, String>) -> Option<TraceContext> {
    headers.get(headers::TRACEPARENT)?.parse().ok()
}

/// Sets the headers that are ours; the message's id.
fn stamp(headers: &mut BTreeMap<String, String>, wall: OffsetDateTime) -> TwistId {
    let offered = headers.get(headers::X_TWIST_ID);
    let twist = offered.and_then(|text| TwistId::parse(text).ok());
    let twist = twist.unwrap_or_else(TwistId::new);
    // A client's too: it may be in upper case, and ACK tells it in lower.
    headers.insert(headers::X_TWIST_ID.to_owned(), twist.to_string());
    headers.insert(headers::X_TIMESTAMP.to_owned(), headers::timestamp(wall));
    twist
}

// === impl Now ===

impl Now {
    /// The moment by the wall clock.
    pub(super) fn unix_micros(self) -> u64 {
        u64::try_from(self.wall.unix_timestamp_nanos() / 1_000).unwrap_or_default()
    }
}

// === impl Unpublished ===

impl Unpublished {
    /// The code that the client is told.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Code(code) => code.name(),
            Self::Blocked(block) => block.code.name(),
            Self::Limited(_) => ErrorCode::RateLimited.name(),
        }
    }
}

// === impl Unjoined ===

impl Unjoined {
    /// The code that the client is told.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Code(code) => code.name(),
            Self::Limited(_) => ErrorCode::RateLimited.name(),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// Over a rate, and welcome again after this.
    fn limited(wait: Duration, room: &RoomId, reference: u64) -> Self {
        Self {
            // Rounded up: who comes back then must find it over.
            retry_after_ms: u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX),
            ..Self::new(ErrorCode::RateLimited, room.to_string(), reference)
        }
    }

    pub(super) fn new(code: ErrorCode, room: String, reference: u64) -> Self {
        Self {
            code,
            room,
            reference,
            retry_after_ms: 0,
            detail: None,
            shown: None,
        }
    }
}

// === impl Action ===

impl Action {
    fn send(envelope: v1::Envelope) -> Self {
        Self::Send(Box::new(envelope))
    }
}

// === impl JoinRequest ===

impl JoinRequest {
    /// What the session is told if the Spine takes the room.
    pub(super) fn joined(&self) -> v1::Envelope {
        let joined = v1::Joined {
            echo: self.echo,
            presence: self.presence.into(),
        };
        envelope::joined(self.room.as_str(), self.reference, joined)
    }
}

// === impl RefreshRequest ===

impl std::fmt::Debug for RefreshRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the token.
        f.debug_struct("RefreshRequest")
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

// === impl Actions ===

impl Actions {
    fn push(&mut self, action: Action) {
        match self.first {
            None => self.first = Some(action),
            Some(_) => self.rest.push(action),
        }
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        Self {
            first: Some(action),
            rest: Vec::new(),
        }
    }
}

impl IntoIterator for Actions {
    type Item = Action;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Action>, std::vec::IntoIter<Action>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

#[cfg(test)]
mod tests;
