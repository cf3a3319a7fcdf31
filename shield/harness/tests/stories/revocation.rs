//! Tokens that are revoked: on every Shield, at once, and until they have expired.

use std::time::Duration;

use arqon_client::ClientError;
use arqon_harness::{Client, Proxy, Spine, TestShield, TestTenant, eventually, unix_now, within};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::names::UserId;
use arqon_proto::v1::{self, Opcode, revocation::Tokens};
use arqon_proto::{envelope, names::TenantId};
use arqon_shield::session::SessionFilter;
use arqon_spine::admin::RevokeTokens;
use arqon_spine::control::RevocationKey;

/// So that a story may have tokens issued after a moment that is now.
const AHEAD: &str = "tokens.leeway_secs = 120";

pub(crate) fn jti(jti: &str) -> RevokeTokens {
    RevokeTokens::Jti {
        jti: jti.to_owned(),
        expires_at: None,
    }
}

pub(crate) fn user(name: &str, issued_before: u64) -> RevokeTokens {
    RevokeTokens::User {
        user: UserId::parse(name).unwrap(),
        issued_before,
    }
}

pub(crate) fn now() -> u64 {
    u64::try_from(unix_now()).unwrap()
}

/// The code with which a token is refused; None: it is accepted.
pub(crate) async fn refusal(shield: &TestShield, token: &str) -> Option<String> {
    match Client::connect(shield.params(token)).await {
        Ok(_) => None,
        Err(ClientError::Refused { status, code, .. }) => {
            assert_eq!(status, 401, "{code}");
            Some(code)
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// Refused by every Shield, as revoked.
pub(crate) async fn refused(shields: &[&TestShield], token: &str) {
    for shield in shields {
        eventually!(refusal(shield, token).await.is_some());
        let code = refusal(shield, token).await;
        assert_eq!(code.as_deref(), Some(ErrorCode::TokenRevoked.name()));
    }
}

async fn closed_as_revoked(client: &mut Client) {
    let (code, frames) = client.closed().await;
    let revoked = CloseCode::TokenRevokedClose.number();
    assert_eq!(code, Some(revoked), "{frames:?}");
}

/// A session of each token on each Shield.
async fn sessions(shields: &[&TestShield], tokens: &[String]) -> Vec<Client> {
    let mut all = Vec::new();
    for shield in shields {
        for token in tokens {
            all.push(shield.connect(token).await);
        }
    }
    all
}

#[tokio::test]
async fn each_kind_closes_and_refuses_its_tokens_on_every_shield_and_no_others() {
    let spine = Spine::start().await;
    let (acme, other) = (spine.tenant("acme").await, spine.tenant("other").await);
    let one = spine.shield().with(AHEAD).start().await;
    let two = spine.shield().id("shield-2").with(AHEAD).start().await;
    let both = [&one, &two];
    let before = now() + 30;
    let of = |tenant: &TestTenant, user: &str, issued: i64, jti: &str| {
        let token = tenant.token().user(user).issued(issued);
        token.claim("jti", jti).sign()
    };
    let cases = [
        (
            jti("one"),
            vec![of(&acme, "ann", 0, "one")],
            vec![
                of(&acme, "ann", 0, "two"),
                acme.token().user("ann").sign(),
                of(&other, "ann", 0, "one"),
            ],
        ),
        (
            user("bob*.>ü", before),
            vec![
                of(&acme, "bob*.>ü", 0, "b1"),
                acme.token().user("bob*.>ü").sign(),
            ],
            vec![
                of(&acme, "bob*.>ü", 60, "b2"),
                of(&acme, "carl", 0, "c1"),
                of(&other, "bob*.>ü", 0, "b1"),
            ],
        ),
        (
            RevokeTokens::All {
                issued_before: before,
            },
            vec![of(&acme, "dora", 0, "d1"), acme.token().user("eve").sign()],
            vec![of(&acme, "dora", 60, "d2"), of(&other, "dora", 0, "d1")],
        ),
    ];
    for (tokens, revoked, others) in cases {
        let mut closing = sessions(&both, &revoked).await;
        let mut staying = sessions(&both, &others).await;
        spine.revoke(&acme, tokens.clone()).await;
        for client in &mut closing {
            closed_as_revoked(client).await;
        }
        for token in &revoked {
            refused(&both, token).await;
        }
        for client in &mut staying {
            client.ping().await;
        }
        // Nor does one get in by the back door.
        for (client, token) in staying.iter_mut().zip(&revoked) {
            let reference = client.reference();
            client.send(envelope::refresh(reference, token)).await;
            let answer = client.expect(Opcode::Error).await;
            let name = &arqon_harness::error_of(&answer).name;
            assert_eq!(name, ErrorCode::TokenRevoked.name(), "{tokens:?}");
            client.ping().await;
        }
        sessions(&both, &others).await;
    }
    for shield in both {
        let closed = shield
            .metric("sessions_closed_total", "TOKEN_REVOKED_CLOSE")
            .await;
        // Sessions that were just left behind may be among them.
        assert!(closed >= 5.0, "{closed}");
        assert!(shield.metric("auth_failures_total", "TOKEN_REVOKED").await >= 5.0);
        eventually!(shield.metric("revocations", "").await == 3.0);
    }
}

#[tokio::test]
async fn a_revocation_survives_shields_and_nats_and_reaches_who_was_cut_off() {
    let mut spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let proxy = Proxy::start(spine.addr()).await.unwrap();
    let token = |id: &str| acme.token().user(id).claim("jti", id).sign();
    let near = spine.shield().start().await;
    let cut_off = spine
        .shield()
        .id("shield-2")
        .via(&proxy.url())
        .start()
        .await;
    let mut there = cut_off.connect(&token("late")).await;
    let mut stays = cut_off.connect(&token("good")).await;
    spine.revoke(&acme, jti("early")).await;
    refused(&[&near, &cut_off], &token("early")).await;

    // One hears nothing of it, until it hears again.
    proxy.refuse(true);
    proxy.cut().await;
    spine.revoke(&acme, jti("late")).await;
    refused(&[&near], &token("late")).await;
    there.ping().await;
    proxy.refuse(false);
    closed_as_revoked(&mut there).await;
    refused(&[&cut_off], &token("late")).await;
    stays.ping().await;

    // A new process knows it from its start.
    drop(cut_off);
    let fresh = spine.shield().id("shield-2").start().await;
    for id in ["early", "late"] {
        refused(&[&near, &fresh], &token(id)).await;
    }
    // So do all, after the server has died and come back.
    spine.kill();
    spine.restart();
    let last = spine.shield().id("shield-3").start().await;
    for id in ["early", "late"] {
        refused(&[&last, &near, &fresh], &token(id)).await;
    }
    assert_eq!(refusal(&last, &token("good")).await, None);
}

#[tokio::test]
async fn a_revocation_ends_when_its_tokens_have() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let short = "tokens.leeway_secs = 0\ntokens.grace_secs = 0";
    let shield = spine.shield().with(short).start().await;
    let token = acme.token().claim("jti", "one").sign();
    // As if the token lived for eight seconds more; it lives for longer.
    let ends = now() + 8;
    let tokens = RevokeTokens::Jti {
        jti: "one".to_owned(),
        expires_at: Some(ends),
    };
    spine.revoke(&acme, tokens).await;
    refused(&[&shield], &token).await;
    eventually!(refusal(&shield, &token).await.is_none());
    assert!(now() >= ends, "not before its time");
    eventually!(shield.metric("revocations", "").await == 0.0);
    let listed = spine.admin().await.revocations().await.unwrap();
    assert!(listed.entries.is_empty(), "{listed:?}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_refuses_its_scope_and_no_more() {
    let spine = Spine::start().await;
    let (acme, other) = (spine.tenant("acme").await, spine.tenant("other").await);
    let shield = spine.shield().start().await;
    let bucket = spine.raw_control().await;
    let bucket = bucket.get_key_value("revocations").await.unwrap();
    let ann = RevocationKey::user(&acme.id, &UserId::parse("ann").unwrap());
    let token = |tenant: &TestTenant, user: &str| tenant.token().user(user).sign();
    let mut anns = shield.connect(&token(&acme, "ann")).await;
    let mut bobs = shield.connect(&token(&acme, "bob")).await;
    let mut others = shield.connect(&token(&other, "ann")).await;

    let put = |key: String| bucket.put(key, "no record".into());
    put(ann.to_string()).await.unwrap();
    closed_as_revoked(&mut anns).await;
    refused(&[&shield], &token(&acme, "ann")).await;
    bobs.ping().await;
    // One of a kind that is not known is the tenant's.
    put("issuer.acme.x".to_owned()).await.unwrap();
    closed_as_revoked(&mut bobs).await;
    refused(&[&shield], &token(&acme, "bob")).await;
    others.ping().await;
    eventually!(shield.metric("revocations_unreadable", "").await == 2.0);

    // A revocation of the same tokens takes its place; the rest can be deleted.
    let admin = spine.admin().await;
    spine.revoke(&acme, user("ann", now() - 100)).await;
    assert_eq!(admin.revocations().await.unwrap().unreadable.len(), 1);
    admin.drop_unreadable_revocations().await.unwrap();
    eventually!(shield.metric("revocations_unreadable", "").await == 0.0);
    eventually!(refusal(&shield, &token(&acme, "ann")).await.is_none());
    assert_eq!(refusal(&shield, &token(&acme, "bob")).await, None);
    others.ping().await;
}

/// What became of a session that began with a token that was revoked meanwhile.
#[derive(Debug, PartialEq)]
enum Fate {
    Refused,
    Closed,
}

async fn fate(connecting: Result<Client, ClientError>) -> Fate {
    match connecting {
        Ok(mut client) => {
            closed_as_revoked(&mut client).await;
            Fate::Closed
        }
        Err(ClientError::Refused { code, .. }) => {
            assert_eq!(code, ErrorCode::TokenRevoked.name());
            Fate::Refused
        }
        // Closed so early that WELCOME was not read.
        Err(ClientError::Closed { code, .. }) => {
            assert_eq!(code, CloseCode::TokenRevokedClose.number());
            Fate::Closed
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// A number from a seed, the same each time (xorshift).
fn chance(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}

/// Sessions that live with a token of this user issued up to a moment.
fn alive(shield: &TestShield, acme: &TenantId, name: &str, issued_before: u64) -> usize {
    let filter = SessionFilter {
        tenant: Some(acme.clone()),
        user: UserId::parse(name).ok(),
        session: None,
    };
    let (sessions, _) = shield.inner().sessions().list(&filter, usize::MAX);
    let revoked = |(_, identity): &&(_, std::sync::Arc<arqon_shield::auth::Identity>)| {
        identity.issued_at <= issued_before
    };
    sessions.iter().filter(revoked).count()
}

const ROUNDS: u64 = 12;
const CONNECTS: usize = 30;
const REFRESHES: usize = 15;

/// Each round a user is revoked while sessions of it are being opened and others take one of its
/// revoked tokens by REFRESH: whichever comes first, none lives with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_session_slips_between_a_revocation_and_its_opening_or_its_refresh() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let one = spine.shield().with(AHEAD).start().await;
    let two = spine.shield().id("shield-2").with(AHEAD).start().await;
    let admin = spine.admin().await;
    let bystander = acme.token().user("bystander").sign();
    let mut bystanders = sessions(&[&one, &two], &[bystander]).await;
    let mut seed = 0x5eed_0008;
    let (mut refused_ones, mut closed_ones, mut kept) = (0, 0, 0);
    for round in 0..ROUNDS {
        let name = format!("user-{round}");
        let before = now() + 20;
        let bad = acme.token().user(&name).sign();
        let good = acme.token().user(&name).issued(60).sign();
        let mut connecting = tokio::task::JoinSet::new();
        for index in 0..CONNECTS {
            let params = [&one, &two][index % 2].params(&bad);
            let pause = Duration::from_micros(chance(&mut seed, 60_000));
            connecting.spawn(async move {
                tokio::time::sleep(pause).await;
                fate(Client::connect(params).await).await
            });
        }
        let mut refreshing = tokio::task::JoinSet::new();
        for index in 0..REFRESHES {
            let mut client = [&one, &two][index % 2].connect(&good).await;
            let (bad, pause) = (bad.clone(), chance(&mut seed, 30_000));
            refreshing.spawn(async move {
                tokio::time::sleep(Duration::from_micros(pause)).await;
                let reference = client.reference();
                client.send(envelope::refresh(reference, &bad)).await;
                match within("an answer to REFRESH", client.recv()).await {
                    Ok(Some(frame)) if frame.op() == Opcode::Error => {
                        let name = arqon_harness::error_of(&frame).name.clone();
                        assert_eq!(name, ErrorCode::TokenRevoked.name());
                        Some(client)
                    }
                    Ok(Some(frame)) => {
                        assert_eq!(frame.op(), Opcode::Refreshed, "{frame:?}");
                        closed_as_revoked(&mut client).await;
                        None
                    }
                    // The revocation came between the check and the swap.
                    ended => {
                        let code = ended.err().and_then(|error| error.close_code());
                        assert_eq!(code, Some(CloseCode::TokenRevokedClose));
                        None
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_micros(chance(&mut seed, 40_000))).await;
        admin
            .revoke(&acme.id, user(&name, before), "story")
            .await
            .unwrap();
        for fate in connecting.join_all().await {
            match fate {
                Fate::Refused => refused_ones += 1,
                Fate::Closed => closed_ones += 1,
            }
        }
        refused(&[&one, &two], &bad).await;
        for mut client in refreshing.join_all().await.into_iter().flatten() {
            client.ping().await;
            kept += 1;
        }
        for shield in [&one, &two] {
            // A session that is being closed counts until its client has gone.
            eventually!(alive(shield, &acme.id, &name, before) == 0, "round {round}");
        }
    }
    for round in 0..ROUNDS {
        let name = format!("user-{round}");
        for shield in [&one, &two] {
            assert_eq!(alive(shield, &acme.id, &name, now() + 20), 0);
        }
    }
    let all = ROUNDS as usize * CONNECTS;
    assert_eq!(refused_ones + closed_ones, all);
    // Else it was no race.
    assert!(
        refused_ones > 0 && closed_ones > 0 && kept > 0,
        "{refused_ones} refused, {closed_ones} closed, {kept} kept"
    );
    for client in &mut bystanders {
        client.ping().await;
    }
}

#[tokio::test]
async fn many_admins_at_once_lose_nothing() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let before = now();
    let mut revoking = tokio::task::JoinSet::new();
    for index in 0..8 {
        let admin = spine.admin().await;
        let id = acme.id.clone();
        revoking.spawn(async move {
            let tokens = user("ann", before - index);
            admin.revoke(&id, tokens, "story").await.unwrap();
            let other = jti(&format!("token-{index}"));
            admin.revoke(&id, other, "story").await.unwrap();
        });
    }
    revoking.join_all().await;
    let records = spine.admin().await.revocations().await.unwrap().entries;
    assert_eq!(records.len(), 9);
    let is_ann = |record: &&v1::Revocation| matches!(&record.tokens, Some(Tokens::User(_)));
    let ann = records.iter().map(|(_, record, _)| record).find(is_ann);
    assert_eq!(ann.unwrap().issued_before, before, "the newest of all");
}
