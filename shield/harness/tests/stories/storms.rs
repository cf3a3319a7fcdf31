//! Many at once: connections and joins are served in turn, and who would wait too long is told.

use arqon_harness::{Spine, http, within};
use arqon_proto::codes::ErrorCode;
use arqon_proto::v1::Join;
use futures_util::future::join_all;

#[tokio::test]
async fn connections_over_the_rate_are_told_to_come_back_and_are_served_then() {
    let spine = Spine::start().await;
    let manifest =
        "listen.accept_rate = 1\nlisten.accept_burst = 2\nlisten.handshake_timeout_secs = 1";
    let shield = spine.shield().with(manifest).start().await;
    // No answer: so many were refused that not all are told.
    let ask = async || http::get(shield.addr(), "/healthz", &[]).await.ok();
    let refused = async {
        loop {
            match ask().await {
                Some(answer) if answer.status == 503 => return answer,
                _ => {}
            }
        }
    };
    let answer = within("a refusal", refused).await;
    assert!(answer.body.contains("OVERLOADED"), "{answer:?}");
    let told = answer
        .headers
        .iter()
        .find(|(name, _)| name == "retry-after");
    assert!(told.unwrap().1.parse::<u64>().unwrap() >= 1);
    assert!(shield.metric("connections_refused_total", "paced").await >= 1.0);
    let served = async { while ask().await.is_none_or(|answer| answer.status != 200) {} };
    within("a turn", served).await;
}

#[tokio::test]
async fn joins_of_a_tenant_take_turns_and_another_tenant_waits_for_none() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let shield = spine.shield().with("rooms.joins_per_sec = 1").start().await;
    let mut many = Vec::new();
    for _ in 0..12 {
        many.push(shield.connect(&acme.token().sign()).await);
    }
    let mut other = shield.connect(&globex.token().sign()).await;
    let joins = many
        .iter_mut()
        .map(|client| client.join_with("lobby", Join::default()));
    let (results, ()) = tokio::join!(join_all(joins), other.join("lobby"));
    let refused: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    // One at once, five that wait a second more each, and those past the line.
    assert!((1..=7).contains(&refused.len()), "{refused:?}");
    for error in &refused {
        assert_eq!(error.name, ErrorCode::RateLimited.name());
        assert!(error.retry_after_ms > 5_000, "{error:?}");
    }
    let quotas = shield.metric("quota_hits_total", "RATE_LIMITED").await;
    assert_eq!(quotas, refused.len() as f64);
}
