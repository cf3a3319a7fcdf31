//! The deployer on a real nats-server, with real components compiled by the
//! real program.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use arqon_policy::{
    Caps, Decision, Draft, FaultClass, Host, HostOptions, Policies, PoliciesOptions, Sender,
    Subject,
    compile::{CompileCommand, Compiler, CompilerOptions},
    wrap,
};
use arqon_proto::{
    codes::ErrorCode,
    headers::HeaderLimits,
    names::{NodeId, PolicyName, RoomId, SessionId, TenantId, UserId},
    v1,
};
use arqon_spine::{
    admin::{Admin, BindPolicy, Expected, PolicyChange, ShieldReports, ShieldState, WaitFor},
    connect::{Connection, TenantOptions, connect_user},
    control::{ControlStore, PolicyKey, PolicyRecordEvent, RecordEvent, RecordStream},
    nats::jetstream,
    server::{self, Io, Process},
    server_config::ServerParams,
    state::{Role, StateFolder},
};
use arqon_telemetry::Metrics;
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::time::timeout;

use super::{COMPILE_POLICY, Deployer, DeployerParams};

const PATIENCE: Duration = Duration::from_secs(60);

/// A policy that blocks with the text that lies at 4096, if `block` is 1; and
/// whose `configure` refuses what begins with `!`.
fn component(reason: &str, block: bool) -> Vec<u8> {
    let configure = "(if (i32.gt_u (local.get $length) (i32.const 0)) (then \
         (if (i32.eq (i32.load8_u (local.get $config)) (i32.const 33)) (then \
           (i32.store (i32.const 48) (i32.const 1)) \
           (i32.store (i32.const 52) (i32.const 4096)) \
           (i32.store (i32.const 56) (i32.const 4)) \
           (return (i32.const 48))))))";
    let on_message = if block {
        format!(
            "(call $block (i32.const 4096) (i32.const {}))",
            reason.len()
        )
    } else {
        "(call $allow)".to_owned()
    };
    let mut text = include_str!("../../policy/tests/fixtures/policy.wat").to_owned();
    for (place, filled) in [
        ("PAGES", "1"),
        ("REALLOC", ""),
        ("EXTRA", ""),
        ("CONFIGURE", configure),
        ("ON_MESSAGE", &on_message),
        ("AFTER", ""),
    ] {
        text = text.replace(&format!("@{place}@"), filled);
    }
    text = text.replace("not in this room", reason);
    wrap::componentize(&wat::parse_str(text).unwrap()).unwrap()
}

/// A deployer to which nothing was told yet.
pub(crate) fn deployer(node: NodeId, metrics: &Metrics) -> (Policies, Deployer) {
    let host = Host::new(&HostOptions::default()).unwrap();
    let options = CompilerOptions {
        command: CompileCommand {
            program: arqon_harness::shield_program(),
            args: vec![COMPILE_POLICY.into()],
        },
        cache_dir: None,
        cache_key: [1; 32],
        timeout: Duration::from_secs(20),
    };
    let compiler = Compiler::new(host.clone(), options).unwrap();
    let (policies, audit) = Policies::new(&host, &PoliciesOptions::default()).unwrap();
    let deployer = Deployer::start(DeployerParams {
        node,
        incarnation: "1".to_owned(),
        host,
        compiler,
        policies: policies.clone(),
        audit,
        metrics: metrics.clone(),
    });
    (policies, deployer)
}

/// A nats-server, an admin, and a deployer whose control task is the test.
struct Ground {
    _folder: TempDir,
    state: StateFolder,
    server: Process,
    admin: Admin,
    policies: Policies,
    deployer: Arc<Deployer>,
    metrics: Metrics,
}

/// What follows CONTROL in place of the control task.
struct Follower {
    _connection: Connection,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ground {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(folder.path().join("spine")).unwrap();
        let params = ServerParams::single(folder.path().join("nats/store"));
        std::fs::create_dir_all(&params.store_dir).unwrap();
        let server = Process::start(&server::find().unwrap(), &state, params, Io::Null).unwrap();
        let admin = Admin::connect(&state, &[server.url()]).await.unwrap();
        let pool = NodeId::parse("default").unwrap();
        admin.bootstrap(1, &pool).await.unwrap();
        let metrics = Metrics::default();
        let (policies, deployer) = deployer(NodeId::parse("shield-1").unwrap(), &metrics);
        Self {
            _folder: folder,
            state,
            server,
            admin,
            policies,
            deployer: Arc::new(deployer),
            metrics,
        }
    }

    async fn role(&self, role: Role) -> Connection {
        let id = NodeId::parse("shield-1").unwrap();
        let user = self.state.mint(role, &id, None).unwrap();
        let options = TenantOptions::default();
        connect_user(&[self.server.url()], user, "test", &options)
            .await
            .unwrap()
    }

    /// Reads everything, and follows from there.
    async fn follow(&self) -> Follower {
        let connection = self.role(Role::Shield).await;
        let store = ControlStore::new(&connection);
        let id = NodeId::parse("shield-1").unwrap();
        let mut orders = store.subscribe_orders(&id).await.unwrap();
        let mut watch = store.watch_policies().await.unwrap();
        let events = read(&mut watch).await;
        self.deployer.read(events, store.clone()).await;
        let deployer = self.deployer.clone();
        let task = tokio::spawn(async move {
            let beat = v1::ShieldBeat {
                shield: "shield-1".to_owned(),
                incarnation: "1".to_owned(),
                ..Default::default()
            };
            let mut beats = tokio::time::interval(Duration::from_millis(200));
            loop {
                tokio::select! {
                    event = watch.next() => match event {
                        Some(Ok(event)) => deployer.changed(event).await,
                        _ => break deployer.lost().await,
                    },
                    order = orders.next() => match order {
                        Some(_) => deployer.report().await,
                        None => break deployer.lost().await,
                    },
                    _ = beats.tick() => {
                        let _ = store.publish_beat(&id, &beat).await;
                    }
                }
            }
        });
        Follower {
            _connection: connection,
            task,
        }
    }

    async fn push(&self, component: &[u8]) -> v1::PolicyVersion {
        let name = PolicyName::parse("words").unwrap();
        let pushed = self
            .admin
            .policies()
            .push_version(&name, component, "me", "");
        pushed.await.unwrap().version
    }

    async fn bind(
        &self,
        key: &str,
        version: &v1::PolicyVersion,
        config: &str,
        at: Option<u64>,
    ) -> PolicyChange {
        let (tenant, name) = match PolicyKey::read(key) {
            PolicyKey::Tenant(tenant, name) => (Some(tenant), name),
            PolicyKey::Platform(name) => (None, name),
            other => panic!("{other}"),
        };
        let wish = BindPolicy {
            name,
            tenant,
            rooms: None,
            policy: PolicyName::parse("words").unwrap(),
            version: version.clone(),
            config: config.to_owned().into(),
            order: 0,
            shadow: false,
            isolation: v1::PolicyIsolation::Unspecified,
            limits: v1::PolicyLimits::default(),
            show_reason: true,
            by: "me".to_owned(),
        };
        self.admin.policies().bind(wish, at).await.unwrap()
    }

    /// What one Shield says of a change.
    async fn outcome(&self, expected: Expected) -> ShieldState {
        let mut reports = ShieldReports::open(self.admin.control()).await.unwrap();
        let wait = WaitFor {
            census: Duration::from_millis(500),
            patience: PATIENCE,
        };
        let outcome = reports.wait(&expected, wait, |_| {}).await.unwrap();
        assert_eq!(outcome.shields.len(), 1, "{outcome:?}");
        outcome.shields[0].state.clone()
    }

    /// What becomes of a message of this tenant.
    async fn publish(&self, tenant: &str) -> Decision {
        let mut draft = Draft {
            payload: "hello".into(),
            ..Default::default()
        };
        let caps = Caps {
            max_payload: 1024,
            headers: HeaderLimits {
                max_headers: 8,
                max_header_bytes: 1024,
            },
        };
        let tenant = TenantId::parse(tenant).unwrap();
        let room = RoomId::parse("lobby").unwrap();
        let user = UserId::parse("ann").unwrap();
        let subject = Subject {
            tenant: &tenant,
            room: &room,
            user: &user,
            role: "user",
            session: SessionId::new(),
        };
        self.policies
            .judge(subject, &mut draft, &Sender::new(), &caps)
            .await
    }

    /// Waits until a message gets this, as `reason` reads it.
    async fn until(&self, tenant: &str, wanted: &str) {
        let mut last = String::new();
        let reached = async {
            loop {
                last = reason(&self.publish(tenant).await);
                if last == wanted {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{last} in place of {wanted}");
    }
}

/// The reason of a block, its code where there is none, or `pass`.
fn reason(decision: &Decision) -> String {
    match decision {
        Decision::Pass => "pass".to_owned(),
        Decision::Blocked(block) => match &block.shown {
            Some(shown) => shown.reason.clone(),
            None => block.code.name().to_owned(),
        },
        other => format!("{other:?}"),
    }
}

async fn read(watch: &mut RecordStream<v1::PolicyEntry>) -> Vec<PolicyRecordEvent> {
    let mut events = Vec::new();
    loop {
        match watch.next().await.unwrap().unwrap() {
            RecordEvent::Synced => return events,
            event => events.push(event),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_goes_round_is_changed_and_ends() {
    let ground = Ground::new().await;
    let _follower = ground.follow().await;
    timeout(PATIENCE, ground.deployer.settled()).await.unwrap();
    assert_eq!(reason(&ground.publish("acme").await), "pass");

    let first = ground.push(&component("one", true)).await;
    let digest: [u8; 32] = first.digest[..].try_into().unwrap();
    let compiled = ground.outcome(Expected::Version(digest)).await;
    assert!(
        matches!(compiled, ShieldState::Compiled { compile_ms: 1.. }),
        "{compiled:?}"
    );
    let bound = ground.bind("tenant.acme.words", &first, "{}", None).await;
    let key = bound.key.clone();
    let state = ground
        .outcome(Expected::Binding(key.clone(), bound.revision))
        .await;
    assert_eq!(state, ShieldState::Active);
    assert_eq!(reason(&ground.publish("acme").await), "one");
    assert_eq!(reason(&ground.publish("globex").await), "pass");

    let second = ground.push(&component("two", true)).await;
    let changed = ground
        .bind("tenant.acme.words", &second, "{}", Some(bound.revision))
        .await;
    ground.until("acme", "two").await;
    let back = ground
        .admin
        .policies()
        .rollback(&key, "me", Some(changed.revision))
        .await;
    ground.until("acme", "one").await;
    let gone = ground
        .admin
        .policies()
        .unbind(&key, Some(back.unwrap().revision))
        .await;
    let state = ground
        .outcome(Expected::Gone(key, gone.unwrap().revision))
        .await;
    assert_eq!(state, ShieldState::Active);
    assert_eq!(reason(&ground.publish("acme").await), "pass");
    let text = ground.metrics.encode();
    assert!(
        text.contains("arqon_shield_policy_bindings{state=\"broken\"} 0"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_blocks_if_new_and_leaves_the_old_in_force_if_not() {
    let ground = Ground::new().await;
    let _follower = ground.follow().await;
    let good = ground.push(&component("good", true)).await;
    let refused = ground.bind("platform.words", &good, "!no", None).await;
    let state = ground
        .outcome(Expected::Binding(refused.key.clone(), refused.revision))
        .await;
    match state {
        ShieldState::Failed {
            error,
            old_in_force,
        } => {
            assert!(
                error.contains("good") && error.contains("configure"),
                "{error}"
            );
            assert!(!old_in_force);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        reason(&ground.publish("acme").await),
        ErrorCode::PolicyUnavailable.name()
    );

    let at = Some(refused.revision);
    let bound = ground.bind("platform.words", &good, "yes", at).await;
    ground.until("acme", "good").await;
    let refused = ground
        .bind("platform.words", &good, "!no", Some(bound.revision))
        .await;
    let state = ground
        .outcome(Expected::Binding(refused.key.clone(), refused.revision))
        .await;
    assert!(
        matches!(
            state,
            ShieldState::Failed {
                old_in_force: true,
                ..
            }
        ),
        "{state:?}"
    );
    assert_eq!(reason(&ground.publish("acme").await), "good");
    // arq takes it back.
    let back = ground.admin.policies().take_back(&refused).await.unwrap();
    let state = ground
        .outcome(Expected::Binding(back.key, back.revision))
        .await;
    assert_eq!(state, ShieldState::Active);
    let summary = ground.deployer.summary();
    assert_eq!((summary.active, summary.broken), (1, 0));
    assert_eq!(summary.revision, back.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_be_had_blocks_until_it_can() {
    let ground = Ground::new().await;
    let _follower = ground.follow().await;
    let good = component("here", true);
    // Bound without its object, as after a store was lost.
    let version = v1::PolicyVersion {
        number: 1,
        digest: arqon_policy::Digest::of(&good).as_bytes().to_vec().into(),
        ..Default::default()
    };
    let bound = ground.bind("tenant.acme.words", &version, "", None).await;
    let expected = Expected::Binding(bound.key.clone(), bound.revision);
    let state = ground.outcome(expected).await;
    assert!(matches!(state, ShieldState::Failed { .. }), "{state:?}");
    assert_eq!(
        reason(&ground.publish("acme").await),
        ErrorCode::PolicyUnavailable.name()
    );
    assert_eq!(reason(&ground.publish("globex").await), "pass");
    ground.admin.control().put_object(&good).await.unwrap();
    // Without any further change: it is tried again.
    ground.until("acme", "here").await;

    // Bytes that are no policy at all.
    let junk = ground.push(b"\0asm no").await;
    let digest: [u8; 32] = junk.digest[..].try_into().unwrap();
    let state = ground.outcome(Expected::Version(digest)).await;
    assert!(matches!(state, ShieldState::Failed { .. }), "{state:?}");
    let bound = ground.bind("tenant.globex.words", &junk, "", None).await;
    ground
        .outcome(Expected::Binding(bound.key, bound.revision))
        .await;
    assert_eq!(
        reason(&ground.publish("globex").await),
        ErrorCode::PolicyUnavailable.name()
    );
    assert_eq!(reason(&ground.publish("acme").await), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_nobody_can_read_blocks_its_scope_and_no_other() {
    let ground = Ground::new().await;
    let _follower = ground.follow().await;
    let raw = ground.role(Role::Admin).await;
    let kv = jetstream::new(raw.client.clone())
        .get_key_value("policies")
        .await
        .unwrap();
    let unavailable = ErrorCode::PolicyUnavailable.name();
    let good = ground.push(&component("good", true)).await;
    let bound = ground.bind("tenant.acme.words", &good, "", None).await;
    ground.until("acme", "good").await;
    // What was in force is not what is meant now.
    kv.put("tenant.acme.words", "\u{ff}".into()).await.unwrap();
    ground.until("acme", unavailable).await;
    assert_eq!(reason(&ground.publish("globex").await), "pass");
    ground
        .admin
        .policies()
        .unbind(&bound.key, None)
        .await
        .unwrap();
    ground.until("acme", "pass").await;
    kv.put("room.acme.lobby", "new".into()).await.unwrap();
    ground.until("globex", unavailable).await;
    kv.purge("room.acme.lobby").await.unwrap();
    ground.until("globex", "pass").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_caught_up_with_and_what_was_made_stays() {
    let mut ground = Ground::new().await;
    let follower = ground.follow().await;
    let first = ground.push(&component("one", true)).await;
    let gone = ground.bind("tenant.acme.gone", &first, "", None).await;
    ground.bind("tenant.globex.stays", &first, "", None).await;
    ground.until("acme", "one").await;
    ground.until("globex", "one").await;
    drop(follower);
    ground.deployer.lost().await;
    let policies = ground.admin.policies();
    policies
        .unbind(&gone.key, Some(gone.revision))
        .await
        .unwrap();
    ground.bind("tenant.initech.new", &first, "", None).await;
    assert_eq!(
        reason(&ground.publish("acme").await),
        "one",
        "nothing was heard"
    );
    let mut restarted = ground.server.stop();
    restarted = restarted.and_then(|()| ground.server.restart());
    restarted.unwrap();
    let allowed = ground.policies.stats();
    let _follower = ground.follow().await;
    // The read is acted on when it returns: what is new blocks, or runs already.
    assert_ne!(reason(&ground.publish("initech").await), "pass");
    assert_eq!(reason(&ground.publish("acme").await), "pass");
    ground.until("initech", "one").await;
    let stays = |stats: &[arqon_policy::BindingStats]| {
        let found = stats
            .iter()
            .find(|stats| &*stats.key == "tenant.globex.stays");
        found
            .map(|stats| (stats.revision, stats.counts.blocked))
            .unwrap()
    };
    assert_eq!(stays(&allowed), stays(&ground.policies.stats()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_settled_before_each_binding_was_made() {
    let ground = Ground::new().await;
    let good = ground.push(&component("good", true)).await;
    for number in 0..300 {
        let key = format!("tenant.acme.b{number}");
        ground
            .bind(&key, &good, if number == 7 { "!" } else { "" }, None)
            .await;
    }
    assert!(
        timeout(Duration::from_millis(200), ground.deployer.settled())
            .await
            .is_err()
    );
    let _follower = ground.follow().await;
    assert_ne!(reason(&ground.publish("acme").await), "pass");
    timeout(PATIENCE, ground.deployer.settled()).await.unwrap();
    let summary = ground.deployer.summary();
    assert_eq!((summary.active, summary.broken), (299, 1));
    let stats = ground.policies.stats();
    assert_eq!(stats.len(), 300);
    // The report of so many has pages.
    let last = PolicyKey::read("tenant.acme.b299");
    let state = ground.outcome(Expected::Binding(last, 1)).await;
    assert_eq!(state, ShieldState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_blocked_is_written_down_once() {
    let ground = Ground::new().await;
    let _follower = ground.follow().await;
    let good = ground.push(&component("good", true)).await;
    ground.bind("platform.words", &good, "", None).await;
    ground.until("acme", "good").await;
    let from = std::time::UNIX_EPOCH;
    let mut audits = ground.admin.control().read_audit(from, true).await.unwrap();
    let audit = timeout(PATIENCE, audits.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(audit.shield, "shield-1");
    let event = &audit.events[0];
    assert_eq!(
        (event.tenant.as_str(), event.room.as_str()),
        ("acme", "lobby")
    );
    let found = audit
        .events
        .iter()
        .find(|event| event.class == "verdict")
        .unwrap();
    assert_eq!(found.binding, "platform.words");
    assert_eq!(
        found.payload_digest,
        arqon_policy::Digest::of(b"hello").as_bytes()[..]
    );
    assert_ne!(found.class, FaultClass::Trap.as_str());
}
