//! Quotas of tenants: over all Shields, changed while they are used, and of no other tenant's concern.

use std::time::{Duration, Instant};

use arqon_client::ClientError;
use arqon_harness::{
    Client, Spine, TenantParams, TestShield, TestTenant, error_of, eventually, without_echo,
};
use arqon_proto::codes::ErrorCode;
use arqon_proto::v1::{Join, Opcode, PresenceMode, TenantLimits};

async fn limited(spine: &Spine, id: &str, limits: TenantLimits) -> TestTenant {
    let params = TenantParams {
        limits,
        ..spine.tenant_params(id)
    };
    spine.create_tenant(params).await
}

/// Two Shields that have heard of each other.
async fn fleet(spine: &Spine) -> [TestShield; 2] {
    let shields = [
        spine.shield().start().await,
        spine.shield().id("shield-2").start().await,
    ];
    for shield in &shields {
        eventually!(shield.metric("quota_shields", "").await == 2.0);
    }
    shields
}

/// A session, or None where the tenant has as many as it may.
async fn try_connect(shield: &TestShield, tenant: &TestTenant) -> Option<Client> {
    match Client::connect(shield.params(&tenant.token().sign())).await {
        Ok(client) => Some(client),
        Err(ClientError::Refused {
            status,
            code,
            retry_after_secs,
            ..
        }) => {
            assert_eq!((status, code.as_str()), (429, "SESSION_LIMIT"));
            assert!(retry_after_secs.is_some(), "it is told when to come back");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// Connects to both in turn until there are so many.
async fn fill(
    shields: &[TestShield; 2],
    tenant: &TestTenant,
    all: &mut Vec<Client>,
    wanted: usize,
) {
    eventually!({
        for shield in shields {
            all.extend(try_connect(shield, tenant).await);
        }
        all.len() >= wanted
    });
}

#[tokio::test]
async fn connections_are_counted_over_all_shields() {
    let spine = Spine::start().await;
    let acme = limited(
        &spine,
        "acme",
        TenantLimits {
            max_connections: 6,
            ..TenantLimits::default()
        },
    )
    .await;
    let globex = spine.tenant("globex").await;
    let shields = fleet(&spine).await;
    let mut all = Vec::new();
    fill(&shields, &acme, &mut all, 6).await;
    // One more than allowed for each further Shield, where both gave out the last one at once.
    assert!(all.len() <= 7, "{}", all.len());
    // Both know by now.
    for shield in &shields {
        eventually!(try_connect(shield, &acme).await.is_none());
        assert!(shield.metric("quota_hits_total", "SESSION_LIMIT").await >= 1.0);
        shield.connect(&globex.token().sign()).await;
    }
    // Nobody who is here is sent away when
    // there are fewer places, and none comes; more places are there at once.
    spine
        .limits(&acme, |limits| limits.max_connections = 2)
        .await;
    for client in &mut all {
        client.ping().await;
    }
    for shield in &shields {
        assert!(try_connect(shield, &acme).await.is_none());
    }
    let stay = all.split_off(all.len() - 1);
    drop(all);
    let mut all = stay;
    fill(&shields, &acme, &mut all, 2).await;
    spine
        .limits(&acme, |limits| limits.max_connections = 0)
        .await;
    for shield in &shields {
        assert!(try_connect(shield, &acme).await.is_some());
    }
}

#[tokio::test]
async fn a_rate_is_shared_by_all_shields_and_each_refusal_says_when_to_come_back() {
    const RATE: f64 = 100.0;
    let spine = Spine::start().await;
    let acme = limited(
        &spine,
        "acme",
        TenantLimits {
            messages_per_sec: RATE as u32,
            ..TenantLimits::default()
        },
    )
    .await;
    let globex = spine.tenant("globex").await;
    let shields = fleet(&spine).await;
    let token = acme.token().role("service").sign();
    let mut clients = [
        shields[0].connect(&token).await,
        shields[1].connect(&token).await,
    ];
    let mut other = shields[0].connect(&globex.token().sign()).await;
    other.join("lobby").await;
    // Until each knows what the other uses.
    flood(&mut clients, Duration::from_secs(4)).await;
    let began = Instant::now();
    let passed = flood(&mut clients, Duration::from_secs(5)).await;
    let secs = began.elapsed().as_secs_f64();
    // Not shared, it would be twice as many. A second's worth may come at once, and the parts
    // lag behind by another.
    let most = RATE * (secs + 2.0);
    assert!(
        f64::from(passed) <= most,
        "{passed} in {secs} s, {most} at most"
    );
    assert!(
        f64::from(passed) >= RATE * secs / 2.0,
        "{passed} in {secs} s"
    );
    // A tenant without a limit is not concerned.
    for n in 0..300 {
        other.publish("lobby", format!("{n}")).await;
        other.hears("lobby", &format!("{n}")).await;
    }
    // The limit goes while they are connected.
    spine
        .limits(&acme, |limits| limits.messages_per_sec = 0)
        .await;
    for client in &mut clients {
        client.ping().await;
        for _ in 0..300 {
            client.publish("lobby", "free").await;
        }
        let reference = client.reference();
        client
            .send(arqon_proto::envelope::ping(reference, Vec::new().into()))
            .await;
        assert_eq!(client.next().await.op(), Opcode::Pong, "none was refused");
    }
}

/// Publishes as fast as it goes, all at once on each; how many passed.
async fn flood(clients: &mut [Client; 2], span: Duration) -> u32 {
    let until = Instant::now() + span;
    let one = async |client: &mut Client| {
        let mut passed = 0;
        while Instant::now() < until {
            let (mut sent, mut refused) = (0, 0);
            for _ in 0..50 {
                client.publish("lobby", "x").await;
                sent += 1;
            }
            let reference = client.reference();
            client
                .send(arqon_proto::envelope::ping(reference, Vec::new().into()))
                .await;
            loop {
                let envelope = client.next().await;
                if envelope.op() == Opcode::Pong {
                    break;
                }
                let error = error_of(&envelope);
                assert_eq!(error.name, ErrorCode::RateLimited.name());
                assert!(error.retry_after_ms > 0, "{error:?}");
                refused += 1;
            }
            passed += sent - refused;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        passed
    };
    let [first, second] = clients;
    let (a, b) = tokio::join!(one(first), one(second));
    a + b
}

#[tokio::test]
async fn a_room_on_two_shields_counts_once() {
    let spine = Spine::start().await;
    let acme = limited(
        &spine,
        "acme",
        TenantLimits {
            max_rooms: 3,
            ..TenantLimits::default()
        },
    )
    .await;
    let shields = fleet(&spine).await;
    let mut clients = [
        shields[0].connect(&acme.token().user("ann").sign()).await,
        shields[1].connect(&acme.token().user("bob").sign()).await,
    ];
    // Each has a part of what is free, and more when the other has told what it has.
    for client in &mut clients {
        for room in ["a", "b"] {
            eventually!(client.join_with(room, Join::default()).await.is_ok());
        }
    }
    let [ann, bob] = &mut clients;
    eventually!(ann.join_with("c", Join::default()).await.is_ok());
    // The fourth is one too many on both; the third is there, and so may be had on the other.
    for (client, name) in [(&mut *ann, "d"), (&mut *bob, "e")] {
        eventually!({
            match client.join_with(name, Join::default()).await {
                Err(error) => {
                    assert_eq!(error.name, ErrorCode::RoomLimit.name());
                    true
                }
                Ok(_) => {
                    client.leave(name).await;
                    false
                }
            }
        });
    }
    eventually!(bob.join_with("c", Join::default()).await.is_ok());
    // A room that is left makes room for another.
    for client in [&mut *ann, &mut *bob] {
        client.leave("a").await;
    }
    eventually!(bob.join_with("f", Join::default()).await.is_ok());
    ann.publish("c", "heard").await;
    bob.hears("c", "heard").await;
}

#[tokio::test]
async fn a_room_takes_so_many_members_and_what_is_large_is_refused_as_the_record_says_now() {
    let spine = Spine::start().await;
    let acme = limited(
        &spine,
        "acme",
        TenantLimits {
            max_members_per_room: 2,
            ..TenantLimits::default()
        },
    )
    .await;
    let shield = spine.shield().start().await;
    let mut members = Vec::new();
    for user in ["ann", "bob", "cid"] {
        members.push(shield.connect(&acme.token().user(user).sign()).await);
    }
    let [ann, bob, cid] = &mut members[..] else {
        panic!("three");
    };
    ann.join_with("lobby", without_echo()).await.unwrap();
    bob.join("lobby").await;
    let full = cid.join_with("lobby", Join::default()).await.unwrap_err();
    assert_eq!(full.name, ErrorCode::RoomFull.name());
    cid.join("other").await;
    bob.leave("lobby").await;
    cid.join("lobby").await;

    spine
        .limits(&acme, |limits| {
            limits.max_payload_bytes = 100;
            limits.max_header_bytes = 10;
            limits.max_rooms_per_session = 2;
        })
        .await;
    ann.publish_with("lobby", "x".repeat(101), &[]).await;
    ann.expect_error(ErrorCode::PayloadTooLarge).await;
    ann.publish_with("lobby", "x", &[("a", "0123456789")]).await;
    ann.expect_error(ErrorCode::HeadersTooLarge).await;
    let many = cid.join_with("third", Join::default()).await.unwrap_err();
    assert_eq!(many.name, ErrorCode::RoomLimit.name());
    // No offence: whoever obeys its WELCOME is not closed for it.
    for _ in 0..25 {
        ann.publish_with("lobby", "x".repeat(101), &[]).await;
        ann.expect_error(ErrorCode::PayloadTooLarge).await;
    }
    ann.publish("lobby", "x".repeat(100)).await;
    cid.hears("lobby", &"x".repeat(100)).await;
    // Raised in NATS first and lowered there last: nobody is cut at either.
    for size in [61_440, 50_000, 61_440] {
        spine
            .limits(&acme, |limits| limits.max_payload_bytes = size)
            .await;
        ann.publish("lobby", "y".repeat(size as usize)).await;
        cid.hears("lobby", &"y".repeat(size as usize)).await;
    }
    assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
}

#[tokio::test]
async fn one_session_is_held_to_its_own_rate_of_messages_and_of_bytes() {
    let spine = Spine::start().await;
    let defaults = "quotas.session_messages_per_sec = 3\nquotas.session_bytes_per_sec = 1000000";
    let shield = spine.shield().with(defaults).start().await;
    let acme = spine.tenant("acme").await;
    let narrow = limited(
        &spine,
        "narrow",
        TenantLimits {
            session_bytes_per_sec: 10,
            session_messages_per_sec: 1_000,
            ..TenantLimits::default()
        },
    )
    .await;
    for (tenant, size, passes) in [(&acme, 1, 3), (&narrow, 5, 2)] {
        let token = tenant.token().role("service").sign();
        for _ in 0..2 {
            let mut client = shield.connect(&token).await;
            // All in the queue of the socket before the first is judged, or nearly.
            for _ in 0..40 {
                client.publish("lobby", "x".repeat(size)).await;
            }
            let reference = client.reference();
            client
                .send(arqon_proto::envelope::ping(reference, Vec::new().into()))
                .await;
            let mut refused = 0;
            while client.next().await.op() != Opcode::Pong {
                refused += 1;
            }
            assert!((1..=40 - passes).contains(&refused), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_shield_that_starts_beside_a_full_tenant_gives_nothing_out_anew() {
    let spine = Spine::start().await;
    let acme = limited(
        &spine,
        "acme",
        TenantLimits {
            max_connections: 3,
            ..TenantLimits::default()
        },
    )
    .await;
    let first = spine.shield().start().await;
    let mut all = Vec::new();
    eventually!({
        all.extend(try_connect(&first, &acme).await);
        all.len() == 3
    });
    let second = spine.shield().id("shield-2").start().await;
    for _ in 0..3 {
        assert!(try_connect(&second, &acme).await.is_none());
    }
    // Who leaves the first makes room on the second.
    all.pop();
    eventually!(try_connect(&second, &acme).await.is_some());
}

#[tokio::test]
async fn presence_of_a_tenant_of_small_messages_cuts_nobody() {
    let spine = Spine::start().await;
    let acme = limited(
        &spine,
        "acme",
        TenantLimits {
            max_payload_bytes: 10,
            max_header_bytes: 1,
            ..TenantLimits::default()
        },
    )
    .await;
    let shield = spine.shield().start().await;
    let mut members = Vec::new();
    for number in 0..60 {
        let token = acme.token().user(&format!("user-{number}")).sign();
        members.push(shield.connect(&token).await);
    }
    let options = Join {
        presence: PresenceMode::Count.into(),
        meta: [("about".to_owned(), "x".repeat(1_000))].into(),
        ..Join::default()
    };
    // All in one batch, or nearly: some 60 KB.
    let joins = members
        .iter_mut()
        .map(|member| member.join_with("lobby", options.clone()));
    for joined in futures_util::future::join_all(joins).await {
        joined.unwrap();
    }
    members[0].publish("lobby", "still here").await;
    for member in &mut members[..2] {
        member.hears("lobby", "still here").await;
    }
    assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
    members[0].publish_with("lobby", "x".repeat(11), &[]).await;
    members[0].expect_error(ErrorCode::PayloadTooLarge).await;
}
