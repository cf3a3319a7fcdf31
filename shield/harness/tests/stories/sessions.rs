//! Sessions that an administrator looks at, and closes.

use std::time::Duration;

use arqon_harness::{Client, Spine, TestShield, TestTenant, eventually};
use arqon_proto::codes::CloseCode;
use arqon_proto::v1::{KickSessions, ListSessions, SessionFilter, control::Order};
use arqon_spine::admin::{Answer, Census, ShieldSessions, WaitFor};

const WAIT: WaitFor = WaitFor {
    census: Duration::from_millis(2_500),
    patience: Duration::from_secs(30),
};

async fn ask(spine: &Spine, order: impl FnOnce(u64) -> Order) -> Vec<Answer<ShieldSessions>> {
    let control = spine.control().await;
    let census = Census::open(&control).await.unwrap();
    census.ask_sessions(order, WAIT).await.unwrap()
}

async fn list(spine: &Spine, filter: SessionFilter, limit: u32) -> Vec<Answer<ShieldSessions>> {
    ask(spine, |request| {
        Order::ListSessions(ListSessions {
            request,
            filter: Some(filter),
            limit,
        })
    })
    .await
}

/// How many each Shield closed.
async fn kick(spine: &Spine, filter: SessionFilter) -> Vec<u32> {
    let answers = ask(spine, |request| {
        Order::KickSessions(KickSessions {
            request,
            filter: Some(filter),
            reason: "a story".to_owned(),
        })
    });
    let answers = answers.await.into_iter();
    answers.map(|answer| answer.said.unwrap().total).collect()
}

fn of(tenant: &str, user: &str, session: &str) -> SessionFilter {
    SessionFilter {
        tenant: tenant.to_owned(),
        user: user.to_owned(),
        session: session.to_owned(),
    }
}

async fn user(shield: &TestShield, tenant: &TestTenant, name: &str) -> Client {
    let token = tenant.token().user(name).claim("jti", format!("of {name}"));
    let mut client = shield.connect(&token.sign()).await;
    // Who never says a word is closed for it.
    client.ping().await;
    client
}

#[tokio::test]
async fn an_administrator_sees_the_sessions_of_all_shields_and_closes_some() {
    let spine = Spine::start().await;
    let (acme, other) = (spine.tenant("acme").await, spine.tenant("other").await);
    let one = spine.shield().start().await;
    let two = spine.shield().id("shield-2").start().await;
    let mut ann = user(&one, &acme, "ann").await;
    let mut ann_too = user(&two, &acme, "ann").await;
    let mut bob = user(&one, &acme, "bob").await;
    let mut stranger = user(&two, &other, "ann").await;

    let all = list(&spine, SessionFilter::default(), 100).await;
    let told = |answers: &[Answer<ShieldSessions>]| -> Vec<(String, String, String)> {
        answers
            .iter()
            .flat_map(|answer| {
                let said = answer.said.clone().unwrap();
                assert_eq!(said.total as usize, said.sessions.len());
                let shield = answer.shield.clone();
                said.sessions
                    .into_iter()
                    .map(move |info| (shield.clone(), info.tenant, info.user))
            })
            .collect()
    };
    let row = |shield: &str, tenant: &str, user: &str| {
        (shield.to_owned(), tenant.to_owned(), user.to_owned())
    };
    assert_eq!(
        told(&all),
        [
            row("shield-1", "acme", "ann"),
            row("shield-1", "acme", "bob"),
            row("shield-2", "acme", "ann"),
            row("shield-2", "other", "ann"),
        ]
    );
    let first = &all[0].said.as_ref().unwrap().sessions[0];
    assert_eq!(first.session, ann.welcome.session_id);
    assert_eq!(first.expires_at, ann.welcome.token_expires_at);
    assert_eq!(
        (first.role.as_str(), first.jti.as_str()),
        ("user", "of ann")
    );
    let apart = first.opened_at_ms.abs_diff(ann.welcome.server_time_ms);
    assert!(apart < 1_000, "both are of the same moment: {apart} ms");
    assert_eq!(told(&list(&spine, of("acme", "ann", ""), 9).await).len(), 2);
    assert!(told(&list(&spine, of("acme", "nobody", ""), 9).await).is_empty());
    let cut = list(&spine, of("acme", "", ""), 1).await;
    let said = cut[0].said.as_ref().unwrap();
    assert_eq!((said.total, said.sessions.len()), (2, 1));

    // One that says nothing means nobody; one that names what is no name, too.
    assert_eq!(kick(&spine, SessionFilter::default()).await, [0, 0]);
    assert_eq!(kick(&spine, of("acme", "", "no session")).await, [0, 0]);
    // A user's name alone would be the user of that name of every tenant.
    assert_eq!(kick(&spine, of("", "ann", "")).await, [0, 0]);
    for client in [&mut ann, &mut ann_too, &mut bob, &mut stranger] {
        client.ping().await;
    }

    let kicked = CloseCode::Kicked.number();
    let id = bob.welcome.session_id.clone();
    assert_eq!(kick(&spine, of("", "", &id)).await, [1, 0]);
    assert_eq!(bob.closed().await.0, Some(kicked));
    assert_eq!(kick(&spine, of("acme", "ann", "")).await, [1, 1]);
    assert_eq!(ann.closed().await.0, Some(kicked));
    assert_eq!(ann_too.closed().await.0, Some(kicked));
    stranger.ping().await;
    // It may come back, for its token is good.
    user(&one, &acme, "bob").await.ping().await;
    assert_eq!(one.metric("sessions_closed_total", "KICKED").await, 2.0);
    assert_eq!(two.metric("sessions_closed_total", "KICKED").await, 1.0);
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut clients = Vec::new();
    for index in 0..300 {
        let token = acme.token().user(&format!("user-{index:03}")).sign();
        clients.push(shield.connect(&token).await);
    }
    eventually!(shield.metric("sessions", "").await == 300.0);
    let answers = list(&spine, of("acme", "", ""), 10_000).await;
    let said = answers[0].said.as_ref().unwrap();
    let users: Vec<_> = said.sessions.iter().map(|info| &info.user).collect();
    assert_eq!((said.total, users.len()), (300, 300));
    assert!(users.is_sorted(), "the oldest first");
    for client in &mut clients {
        client.ping().await;
    }
}
