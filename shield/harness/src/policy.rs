//! Policies of a story: pushed, bound, and known to be in force.

use arqon_proto::names::{PolicyName, RoomPattern, TenantId};
use arqon_proto::v1;
use arqon_spine::admin::{BindPolicy, PolicyChange};
use arqon_spine::nats::jetstream;
use arqon_spine::state::Role;
use futures_util::StreamExt as _;

use crate::{Spine, within};

/// A binding to be made, platform-wide and with no configuration unless changed.
#[derive(Clone, Debug)]
pub struct TestBinding(BindPolicy);

// === impl TestBinding ===

impl TestBinding {
    /// Only this tenant's.
    #[must_use]
    pub fn tenant(mut self, id: &TenantId) -> Self {
        self.0.tenant = Some(id.clone());
        self
    }

    /// Only rooms of this pattern.
    #[must_use]
    pub fn rooms(mut self, pattern: &str) -> Self {
        self.0.rooms = Some(RoomPattern::parse(pattern).expect("a pattern"));
        self
    }

    /// With this configuration.
    #[must_use]
    pub fn config(mut self, json: &str) -> Self {
        self.0.config = bytes::Bytes::copy_from_slice(json.as_bytes());
        self
    }

    /// Under this name instead of the policy's.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.0.name = name_of(name);
        self
    }

    /// Lower ones run first.
    #[must_use]
    pub fn order(mut self, order: i32) -> Self {
        self.0.order = order;
        self
    }

    /// Changes nothing, only counts.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.0.shadow = true;
        self
    }

    /// Tells the sender why.
    #[must_use]
    pub fn shown(mut self) -> Self {
        self.0.show_reason = true;
        self
    }
}

impl Spine {
    /// Pushes a component; the binding that puts it in force everywhere.
    ///
    /// # Panics
    /// If CONTROL does not take it.
    pub async fn push(&self, policy: &str, component: &[u8]) -> TestBinding {
        let policy = name_of(policy);
        let admin = self.admin().await;
        let pushed = within(
            "a push",
            admin
                .policies()
                .push_version(&policy, component, "story", ""),
        )
        .await
        .unwrap_or_else(|error| panic!("{policy} is pushed: {error:?}"));
        TestBinding(BindPolicy {
            name: policy.clone(),
            tenant: None,
            rooms: None,
            policy,
            version: pushed.version,
            config: bytes::Bytes::new(),
            order: 0,
            shadow: false,
            isolation: v1::PolicyIsolation::Unspecified,
            limits: v1::PolicyLimits::default(),
            show_reason: false,
            by: "story".to_owned(),
        })
    }

    /// Pushes a policy that comes with arq.
    ///
    /// # Panics
    /// If there is none of that name.
    pub async fn push_shipped(&self, name: &str) -> TestBinding {
        let shipped = arqon_policy::shipped::shipped();
        let shipped = shipped.iter().find(|shipped| shipped.name == name);
        let shipped = shipped.unwrap_or_else(|| panic!("{name} comes with arq"));
        self.push(name, shipped.component).await
    }

    /// Writes a binding; it takes effect in its own time.
    ///
    /// # Panics
    /// If CONTROL does not take it.
    pub async fn bind(&self, binding: &TestBinding) -> PolicyChange {
        let admin = self.admin().await;
        let policies = admin.policies();
        let found = policies.binding(&binding.0.key()).await;
        let at = found.ok().map(|(_, revision)| revision);
        policies
            .bind(binding.0.clone(), at)
            .await
            .expect("a binding is written")
    }

    /// Writes a binding and waits until these Shields say that it runs.
    pub async fn enforce(&self, binding: &TestBinding, shields: &[&str]) -> PolicyChange {
        let change = self.bind(binding).await;
        for shield in shields {
            self.acted_on(shield, change.revision).await;
        }
        change
    }

    /// Removes a binding and waits until these Shields have forgotten it.
    pub async fn unbind(&self, change: &PolicyChange, shields: &[&str]) {
        let admin = self.admin().await;
        let gone = admin
            .policies()
            .unbind(&change.key, None)
            .await
            .expect("a binding is removed");
        for shield in shields {
            self.acted_on(shield, gone.revision).await;
        }
    }

    /// JetStream of CONTROL with the administrator's rights, past all checks of ours.
    pub async fn raw_control(&self) -> jetstream::Context {
        let creds = self
            .state()
            .creds(Role::Admin, &crate::spine::node("story"))
            .expect("the administrator's credentials");
        jetstream::new(self.connect(&creds).await.client)
    }

    /// The report in which a Shield says that it acted on this revision: each
    /// binding is made, or has failed.
    pub async fn acted_on(&self, shield: &str, revision: u64) -> v1::PolicyReport {
        let control = self.control().await;
        let mut reports = control
            .subscribe_policy_reports()
            .await
            .expect("reports are heard");
        let asked = v1::control::Order::ReportPolicies(v1::ReportPolicies {});
        within("a report of policies", async {
            loop {
                control
                    .send_order(None, asked.clone())
                    .await
                    .expect("an order is sent");
                let wait = std::time::Duration::from_millis(500);
                while let Ok(report) = tokio::time::timeout(wait, reports.next()).await {
                    let report = report.expect("CONTROL stays");
                    let done = |state: &v1::PolicyBindingState| {
                        !state.error.is_empty() || state.active_revision == state.revision
                    };
                    if report.shield == shield
                        && report.revision >= revision
                        && report.bindings.iter().all(done)
                    {
                        return report;
                    }
                }
            }
        })
        .await
    }
}

fn name_of(text: &str) -> PolicyName {
    PolicyName::parse(text).expect("a policy's name")
}
