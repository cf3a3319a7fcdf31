//! Tenants that are suspended or deleted while their users are there: all are told, and nothing
//! of the tenant is left in NATS, in a Shield or in a Brain.

use arqon_harness::{Client, Spine, TestBrain, TestShield, TestTenant, eventually, seen_as};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::envelope;
use arqon_proto::v1::{Opcode, PresenceMode};
use bytes::Bytes;

use crate::revocation::refusal;

struct Stage {
    one: TestShield,
    two: TestShield,
    brain: TestBrain,
    acme: TestTenant,
    other: TestTenant,
    spine: Spine,
}

async fn member(shield: &TestShield, tenant: &TestTenant, user: &str) -> Client {
    let mut client = shield.connect(&tenant.token().user(user).sign()).await;
    client
        .join_with("lobby", seen_as(PresenceMode::Count, &[]))
        .await
        .unwrap();
    client
}

/// It lives, and may have been told of presence before.
async fn answers(client: &mut Client) {
    let ping = envelope::ping(client.reference(), Bytes::new());
    client.send(ping).await;
    while client.next().await.op() != Opcode::Pong {}
}

impl Stage {
    async fn new() -> Self {
        let spine = Spine::start().await;
        let (acme, other) = (spine.tenant("acme").await, spine.tenant("other").await);
        let brain = spine.brain("brain-1").launch();
        let lines = "presence.leave_delay_ms = 0";
        let one = spine.shield().with(lines).start().await;
        let two = spine.shield().id("shield-2").with(lines).start().await;
        brain.warm().await;
        Self {
            one,
            two,
            brain,
            acme,
            other,
            spine,
        }
    }

    fn shields(&self) -> [&TestShield; 2] {
        [&self.one, &self.two]
    }

    /// Two members of each tenant, one on each Shield; those of `acme` come first.
    async fn members(&self) -> Vec<Client> {
        let mut all = Vec::new();
        for tenant in [&self.acme, &self.other] {
            for shield in self.shields() {
                all.push(member(shield, tenant, "ann").await);
            }
        }
        eventually!(self.brain.metric("members").await == 4.0);
        eventually!(self.spine.connections(&self.acme).await == 2);
        all
    }

    /// What holds once the tenant may not be here any more.
    async fn is_gone(&self, clients: &mut [Client]) {
        let (gone, staying) = clients.split_at_mut(2);
        for client in gone {
            let code = client.closed().await.0;
            assert_eq!(code, Some(CloseCode::TenantGone.number()));
        }
        eventually!(self.spine.connections(&self.acme).await == 0);
        for shield in self.shields() {
            let stats = || shield.inner().pool().stats();
            eventually!(
                stats().iter().all(|link| link.tenant != self.acme.id),
                "{:?}",
                stats()
            );
            assert_eq!(shield.inner().sessions().count_of(&self.acme.id), 0);
        }
        eventually!(self.brain.metric("members").await == 2.0);
        assert_eq!(self.spine.connections(&self.other).await, 2);
        for client in staying {
            answers(client).await;
        }
    }
}

#[tokio::test]
async fn a_tenant_that_is_suspended_leaves_nothing_behind_and_comes_back() {
    let stage = Stage::new().await;
    let mut clients = stage.members().await;
    stage.spine.suspend("acme").await;
    stage.is_gone(&mut clients).await;
    let token = stage.acme.token().sign();
    for shield in stage.shields() {
        let answer = Client::connect(shield.params(&token)).await;
        let code = match answer {
            Err(arqon_client::ClientError::Refused { code, .. }) => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code, ErrorCode::TenantSuspended.name());
    }
    stage.spine.resume("acme").await;
    for shield in stage.shields() {
        eventually!(Client::connect(shield.params(&token)).await.is_ok());
        answers(&mut member(shield, &stage.acme, "bob").await).await;
    }
}

#[tokio::test]
async fn a_tenant_that_is_deleted_leaves_nothing_behind() {
    let stage = Stage::new().await;
    let mut clients = stage.members().await;
    stage.spine.delete("acme").await;
    stage.is_gone(&mut clients).await;
    for shield in stage.shields() {
        let code = refusal(shield, &stage.acme.token().sign()).await;
        assert_eq!(code.as_deref(), Some(ErrorCode::TokenUntrusted.name()));
    }
    // Nor is anything of it in force for who has its name next.
    let next = stage.spine.tenant("acme").await;
    for shield in stage.shields() {
        eventually!(refusal(shield, &next.token().sign()).await.is_none());
        answers(&mut member(shield, &next, "ann").await).await;
    }
    eventually!(stage.brain.metric("members").await == 2.0);
}
