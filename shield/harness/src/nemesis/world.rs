//! The processes, the proxies between them, and what faults do to them.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arqon_proto::names::UserId;
use arqon_proto::v1;
use arqon_spine::admin::{Admin, RevokeTokens};
use arqon_spine::connect::connect_creds;
use arqon_spine::control::ControlStore;
use arqon_spine::state::{Role, StateFolder};

use super::guest::user_of;
use super::plan::{Kind, Target, Trouble, Way};
use super::{BRAINS, DOORS, SERVERS, SERVERS_OF, SHIELDS, TENANTS};
use crate::brain::TestBrain;
use crate::program::{Signal, free_addr, resident_bytes, signal};
use crate::proxy::{Proxy, Slow};
use crate::shield::{ShieldParams, ShieldProcess};
use crate::spine::{Spine, TestTenant, node};

/// What is asked of the control plane under faults may take so long, or is given up.
const ORDER: Duration = Duration::from_secs(10);

/// How a process stands by the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// It was told to end, and may have.
    Ending,
    Down,
}

struct OneShield {
    params: ShieldParams,
    process: ShieldProcess,
    state: State,
}

/// All of it.
pub(super) struct World {
    // Before the Spine, whose folder has their files.
    shields: Vec<OneShield>,
    brains: Vec<(TestBrain, State)>,
    servers: [State; SERVERS],
    spine: Spine,
    pub(super) tenants: Vec<TestTenant>,
    /// From each Shield, then each Brain, to each server.
    ways: Vec<Vec<Proxy>>,
    routes: Vec<Proxy>,
    doors: Vec<Vec<Proxy>>,
    /// What went wrong that no fault explains.
    pub(super) problems: Vec<String>,
}

// === impl World ===

impl World {
    /// Starts everything, and waits until it is ready.
    pub(super) async fn start() -> Self {
        let (spine, routes) = Spine::cluster_over_proxies().await;
        let mut tenants = Vec::new();
        for id in TENANTS {
            tenants.push(spine.tenant(id).await);
        }
        let mut ways = Vec::new();
        for _ in 0..SHIELDS + BRAINS {
            let mut way = Vec::new();
            for server in 0..SERVERS {
                let url = spine.url_of(server);
                let addr = url.trim_start_matches("nats://").parse();
                let addr = addr.expect("a server listens on an address");
                way.push(Proxy::start(addr).await.expect("a proxy"));
            }
            ways.push(way);
        }
        let urls = |way: &Vec<Proxy>| way.iter().map(Proxy::url).collect::<Vec<_>>();
        let mut shields = Vec::new();
        let mut doors = Vec::new();
        for (number, way) in ways.iter().take(SHIELDS).enumerate() {
            let servers = SERVERS_OF[number].map(|server| way[server].url());
            let servers = format!("spine.servers = {servers:?}");
            let params = spine.shield().id(&format!("shield-{}", number + 1));
            let params = params.with(&servers).with(
                "session.heartbeat_secs = 3\n\
                 session.first_frame_timeout_secs = 10\n\
                 spine.user_ttl_secs = 10",
            );
            let process = params.clone().launch_at(free_addr(), free_addr());
            let mut own = Vec::new();
            for _ in 0..DOORS {
                own.push(Proxy::start(process.addr).await.expect("a proxy"));
            }
            doors.push(own);
            shields.push(OneShield {
                params,
                process,
                state: State::Up,
            });
        }
        let mut brains = Vec::new();
        for (number, way) in ways.iter().skip(SHIELDS).enumerate() {
            let brain = spine.brain(&format!("brain-{}", number + 1));
            brains.push((brain.via_all(&urls(way)).launch(), State::Up));
        }
        Self {
            shields,
            brains,
            servers: [State::Up; SERVERS],
            spine,
            tenants,
            ways,
            routes,
            doors,
            problems: Vec::new(),
        }
    }

    /// Where clients connect.
    pub(super) fn doors(&self) -> Vec<SocketAddr> {
        self.doors.iter().flatten().map(|door| door.addr).collect()
    }

    /// Leaves logs and manifests where they are; says where.
    pub(super) fn keep(&mut self) -> std::path::PathBuf {
        self.spine.keep_folder();
        self.spine.folder().to_owned()
    }

    /// The folder of logs and manifests.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.spine.folder()
    }

    /// What is up and not ready.
    pub(super) async fn unready(&self) -> Vec<String> {
        let mut unready = Vec::new();
        for (number, shield) in self.shields.iter().enumerate() {
            if !shield.process.is_ready().await {
                unready.push(format!("shield-{} is not ready", number + 1));
            }
        }
        for (brain, state) in &self.brains {
            if *state == State::Up && brain.status("/readyz").await != Some(200) {
                unready.push(format!("{} is not warm", brain.id()));
            }
        }
        unready
    }

    /// How many entries each Brain that is up has.
    pub(super) async fn members(&self) -> Vec<(String, f64)> {
        let mut members = Vec::new();
        for (brain, state) in &self.brains {
            if *state == State::Up {
                members.push((brain.id().to_owned(), brain.metric("members").await));
            }
        }
        members
    }

    /// Bytes in RAM of the largest Shield.
    pub(super) fn largest_shield(&self) -> u64 {
        let pids = self.shields.iter().map(|it| it.process.program.pid());
        pids.map(resident_bytes).max().unwrap_or(0)
    }

    /// Notes processes that ended without being told.
    pub(super) fn look_after(&mut self) {
        for (number, shield) in self.shields.iter_mut().enumerate() {
            if shield.state == State::Up
                && let Some(status) = shield.process.program.ended()
            {
                shield.state = State::Down;
                let problem = format!("shield-{} ended by itself: {status}", number + 1);
                self.problems.push(problem);
            }
        }
        for (brain, state) in &mut self.brains {
            if *state == State::Up
                && let Some(status) = brain.program.ended()
            {
                *state = State::Down;
                let problem = format!("{} ended by itself: {status}", brain.id());
                self.problems.push(problem);
            }
        }
    }

    /// A fault begins.
    pub(super) fn begin(&mut self, kind: Kind) {
        match kind {
            Kind::Kill(target) => self.kill(target),
            Kind::Retire(target) => self.retire(target),
            Kind::Freeze(target) => self.signal(target, Signal::STOP),
            Kind::Bad(way, trouble) => self.proxies(way).for_each(|it| worsen(it, trouble)),
            Kind::Rotate => {
                let all = v1::RotateCredentials::default();
                let order = v1::control::Order::RotateCredentials(all);
                self.order(async move |control| control.send_order(None, order).await.is_ok());
            }
            Kind::Suspend(tenant) => {
                let id = self.tenants[tenant].id.clone();
                self.administer(async move |admin| admin.suspend(&id).await.is_ok());
            }
            Kind::Revoke(tenant, client) => {
                let id = self.tenants[tenant].id.clone();
                let tokens = RevokeTokens::User {
                    user: UserId::parse(&user_of(client)).expect("a user's name"),
                    issued_before: now_secs(),
                };
                self.administer(async move |admin| {
                    admin.revoke(&id, tokens, "nemesis").await.is_ok()
                });
            }
        }
    }

    /// A fault ends.
    pub(super) fn end(&mut self, kind: Kind) {
        match kind {
            Kind::Kill(target) => self.start_again(target),
            Kind::Retire(target) => {
                self.kill(target);
                self.start_again(target);
            }
            Kind::Freeze(target) => self.signal(target, Signal::CONT),
            Kind::Bad(way, _) => self.proxies(way).for_each(mend),
            Kind::Rotate | Kind::Revoke(..) => {}
            Kind::Suspend(tenant) => {
                let id = self.tenants[tenant].id.clone();
                self.administer(async move |admin| admin.resume(&id).await.is_ok());
            }
        }
    }

    /// Everything works again, as far as it is ours to say.
    pub(super) async fn heal(&mut self) {
        let ways = self
            .ways
            .iter()
            .flatten()
            .chain(self.doors.iter().flatten());
        ways.chain(&self.routes).for_each(mend);
        let servers = (0..SERVERS).map(Target::Server);
        let shields = (0..SHIELDS).map(Target::Shield);
        let brains = (0..BRAINS).map(Target::Brain);
        for target in servers.chain(shields).chain(brains) {
            if self.state(target) == State::Up {
                self.signal(target, Signal::CONT);
            } else {
                self.kill(target);
                self.start_again(target);
            }
        }
        for tenant in &self.tenants {
            let (state, urls) = (self.spine.state().clone(), self.urls());
            let id = &tenant.id;
            let resumed =
                async || admin_does(&state, &urls, async |it| it.resume(id).await.is_ok()).await;
            let mut attempts = 0;
            while !resumed().await {
                attempts += 1;
                if attempts == 10 {
                    self.problems.push(format!("tenant {id} cannot be resumed"));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Ends a Brain for good.
    pub(super) fn lose_brain(&mut self, number: usize) {
        self.kill(Target::Brain(number));
    }

    fn state(&self, target: Target) -> State {
        match target {
            Target::Shield(number) => self.shields[number].state,
            Target::Brain(number) => self.brains[number].1,
            Target::Server(number) => self.servers[number],
        }
    }

    fn set_state(&mut self, target: Target, state: State) {
        match target {
            Target::Shield(number) => self.shields[number].state = state,
            Target::Brain(number) => self.brains[number].1 = state,
            Target::Server(number) => self.servers[number] = state,
        }
    }

    fn kill(&mut self, target: Target) {
        self.set_state(target, State::Down);
        match target {
            Target::Shield(number) => self.shields[number].process.program.kill(),
            Target::Brain(number) => self.brains[number].0.kill(),
            Target::Server(number) => self.spine.kill_server(number),
        }
    }

    fn retire(&mut self, target: Target) {
        self.set_state(target, State::Ending);
        match target {
            Target::Server(number) => self.spine.lame_duck(number),
            _ => self.signal(target, Signal::TERM),
        }
    }

    fn start_again(&mut self, target: Target) {
        self.set_state(target, State::Up);
        match target {
            Target::Shield(number) => {
                let shield = &mut self.shields[number];
                let (addr, admin) = (shield.process.addr, shield.process.admin);
                shield.process = shield.params.clone().launch_at(addr, admin);
            }
            Target::Brain(number) => self.brains[number].0.relaunch(),
            // It waits until the server answers, and other tasks go on.
            Target::Server(number) => {
                tokio::task::block_in_place(|| self.spine.restart_server(number));
            }
        }
    }

    fn signal(&mut self, target: Target, which: Signal) {
        let pid = match target {
            Target::Shield(number) => Some(self.shields[number].process.program.pid()),
            Target::Brain(number) => Some(self.brains[number].0.program.pid()),
            Target::Server(number) => self.spine.pid_of(number),
        };
        if let Some(pid) = pid {
            signal(pid, which);
        }
    }

    fn proxies(&self, way: Way) -> Box<dyn Iterator<Item = &Proxy> + '_> {
        let of = |dialler| match dialler {
            Target::Shield(number) => &self.ways[number],
            Target::Brain(number) => &self.ways[SHIELDS + number],
            Target::Server(_) => &self.routes,
        };
        match way {
            Way::Spine(dialler, server) => Box::new(std::iter::once(&of(dialler)[server])),
            Way::Island(dialler) => Box::new(of(dialler).iter()),
            Way::Route(number) => Box::new(std::iter::once(&self.routes[number])),
            Way::Door(shield, door) => Box::new(std::iter::once(&self.doors[shield][door])),
        }
    }

    fn urls(&self) -> Vec<String> {
        (0..SERVERS).map(|it| self.spine.url_of(it)).collect()
    }

    /// Gives an order beside what goes on; it may fail.
    fn order(&self, give: impl AsyncFnOnce(&ControlStore) -> bool + Send + 'static) {
        let creds = self.spine.state().creds(Role::Admin, &node("nemesis"));
        let urls = self.urls();
        let handle = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            handle.block_on(async move {
                let given = async {
                    let creds = creds.ok()?;
                    let connection = connect_creds(&urls, &creds, "nemesis").await.ok()?;
                    Some(give(&ControlStore::new(&connection)).await)
                };
                let _ = tokio::time::timeout(ORDER, given).await;
            });
        });
    }

    /// As `order`, of the administrator.
    fn administer(&self, give: impl AsyncFnOnce(&Admin) -> bool + Send + 'static) {
        let (state, urls) = (self.spine.state().clone(), self.urls());
        let handle = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            handle.block_on(admin_does(&state, &urls, give));
        });
    }
}

/// Whether the administrator could do it.
async fn admin_does(
    state: &StateFolder,
    urls: &[String],
    give: impl AsyncFnOnce(&Admin) -> bool,
) -> bool {
    let given = async {
        let admin = Admin::connect(state, urls).await.ok()?;
        Some(give(&admin).await)
    };
    tokio::time::timeout(ORDER, given).await == Ok(Some(true))
}

fn worsen(proxy: &Proxy, trouble: Trouble) {
    match trouble {
        Trouble::Cut => {
            proxy.refuse(true);
            proxy.break_all();
        }
        Trouble::Break => proxy.break_all(),
        Trouble::MuteUp => proxy.pause_up(),
        Trouble::MuteDown => proxy.pause_down(),
        Trouble::Mute => {
            proxy.pause_up();
            proxy.pause_down();
        }
        Trouble::Late(ms) => proxy.slow(Some(Slow {
            delay: Duration::from_millis(ms),
            piece: usize::MAX,
        })),
        Trouble::Trickle(piece) => proxy.slow(Some(Slow {
            delay: Duration::from_millis(10),
            piece,
        })),
    }
}

fn mend(proxy: &Proxy) {
    proxy.resume();
    proxy.slow(None);
}

fn now_secs() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
