//! Tokens that are refreshed, expire, and whose keys change, while messages flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arqon_harness::{
    Client, JwksServer, Spine, TenantParams, TestTenant, eventually, issuer_key, unix_now,
};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, Opcode};
use tokio::task::JoinHandle;

use crate::revocation::refusal;
use crate::rotation::hear;

/// Tokens of the publishers of a story live for so long.
const SHORT: i64 = 4;

async fn refresh(client: &mut Client, token: &str) -> Envelope {
    let reference = client.reference();
    client.send(envelope::refresh(reference, token)).await;
    loop {
        let frame = client.next().await;
        // Told whenever a short token was in force for a while.
        if frame.op() != Opcode::TokenExpiring {
            assert_eq!(frame.r#ref, reference, "{frame:?}");
            return frame;
        }
    }
}

/// Publishes numbers, with another token every so many; gives how many, and how many tokens.
fn speak_and_refresh(
    mut client: Client,
    tenant: TestTenant,
    user: String,
    stop: Arc<AtomicBool>,
) -> JoinHandle<(u64, u64)> {
    tokio::spawn(async move {
        let (mut number, mut tokens) = (0, 0);
        while !stop.load(Ordering::SeqCst) {
            client.publish("lobby", u64::to_string(&number)).await;
            number += 1;
            if number % 25 == 0 {
                let token = tenant.token().user(&user).role("service").ttl(SHORT);
                let answer = refresh(&mut client, &token.sign()).await;
                assert_eq!(answer.op(), Opcode::Refreshed, "{answer:?}");
                tokens += 1;
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        client.publish("lobby", "end").await;
        let token = tenant.token().user(&user).role("service").sign();
        let answer = refresh(&mut client, &token).await;
        assert_eq!(answer.op(), Opcode::Refreshed);
        (number, tokens)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refreshes_lose_nothing_and_who_does_not_refresh_is_closed() {
    const SPEAKERS: usize = 6;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let lines = "tokens.leeway_secs = 0\ntokens.grace_secs = 1";
    let one = spine.shield().with(lines).start().await;
    let two = spine.shield().id("shield-2").with(lines).start().await;
    let mut hearers = Vec::new();
    for shield in [&one, &two] {
        let mut client = shield.connect(&acme.token().user("hearer").sign()).await;
        client.join("lobby").await;
        hearers.push(hear(client, SPEAKERS));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut speaking = Vec::new();
    for index in 0..SPEAKERS {
        let user = format!("speaker-{index}");
        let token = acme.token().user(&user).role("service").ttl(SHORT);
        let client = [&one, &two][index % 2].connect(&token.sign()).await;
        let done = speak_and_refresh(client, acme.clone(), user.clone(), stop.clone());
        speaking.push((user, done));
    }
    // Two in a row, so that each speaker has outlived its first token.
    for _ in 0..2 {
        let mut lazy = one
            .connect(&acme.token().user("lazy").ttl(SHORT).sign())
            .await;
        let expires = lazy.welcome.token_expires_at;
        let (code, frames) = lazy.closed().await;
        assert_eq!(code, Some(CloseCode::TokenExpiredClose.number()));
        assert!(
            u64::try_from(unix_now()).unwrap() >= expires,
            "not before its time"
        );
        let told: Vec<_> = frames.iter().map(Envelope::op).collect();
        assert_eq!(told, [Opcode::TokenExpiring], "however late Shield woke");
    }
    stop.store(true, Ordering::SeqCst);
    let mut said = Vec::new();
    for (user, done) in speaking {
        let (count, tokens) = done.await.unwrap();
        assert!(tokens > 0, "{user} never refreshed");
        said.push((user, count));
    }
    for hearer in hearers {
        // Each number in order: it would have failed at a hole.
        let heard = hearer.await.unwrap();
        for (user, count) in &said {
            assert_eq!(heard.get(user), Some(count), "of {user}");
        }
    }
}

#[tokio::test]
async fn a_key_that_goes_takes_no_live_session_with_it_and_refreshes_none() {
    let spine = Spine::start().await;
    let (first, second) = (issuer_key(2), issuer_key(3));
    let jwks = JwksServer::start(&[("one", first)]).await.unwrap();
    let acme = spine
        .create_tenant(TenantParams {
            kid: "one".into(),
            key: first,
            jwks_url: Some(jwks.url()),
            ..spine.tenant_params("acme")
        })
        .await;
    let shield = spine
        .shield()
        .with(
            "tokens.jwks_refresh_secs = 10\ntokens.jwks_min_interval_secs = 1\n\
             tokens.leeway_secs = 0\ntokens.grace_secs = 1",
        )
        .start()
        .await;
    let old = || acme.token();
    let new = || acme.token().header("kid", "two").signed_by(second);
    let mut alice = shield.connect(&old().sign()).await;
    let mut bob = shield.connect(&old().user("bob").sign()).await;
    alice.join("lobby").await;
    bob.join("lobby").await;

    jwks.publish(&[("two", second)]);
    // A token with the new key is the reason to fetch.
    eventually!(refusal(&shield, &new().user("eve").sign()).await.is_none());
    let untrusted = ErrorCode::TokenUntrusted.name();
    assert_eq!(
        refusal(&shield, &old().sign()).await.as_deref(),
        Some(untrusted)
    );
    // Who is there stays, and speaks.
    alice.publish("lobby", "still me").await;
    alice.hears("lobby", "still me").await;
    bob.hears("lobby", "still me").await;
    let answer = refresh(&mut alice, &old().sign()).await;
    assert_eq!(answer.op(), Opcode::Error, "{answer:?}");
    assert_eq!(arqon_harness::error_of(&answer).name, untrusted);
    alice.publish("lobby", "as before").await;
    alice.hears("lobby", "as before").await;
    bob.hears("lobby", "as before").await;
    let answer = refresh(&mut alice, &new().sign()).await;
    assert_eq!(answer.op(), Opcode::Refreshed, "{answer:?}");
    // And goes when its token ends, like everybody.
    let answer = refresh(&mut bob, &new().user("bob").ttl(3).sign()).await;
    assert_eq!(answer.op(), Opcode::Refreshed, "{answer:?}");
    let (code, _) = bob.closed().await;
    assert_eq!(code, Some(CloseCode::TokenExpiredClose.number()));
    alice.publish("lobby", "I stay").await;
    alice.hears("lobby", "I stay").await;
}
