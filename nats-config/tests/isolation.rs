//! What one tenant's credentials can do to another tenant: nothing. Proven on
//! the server, with users minted as Shields mint them.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use arqon_spine::accounts;
use arqon_spine::claims::{Import, Permission, Scope, ShareKind, Template};
use arqon_spine::connect::{ConnectError, Connection, TenantOptions, connect_tenant};
use arqon_spine::credentials::{mint_tenant_user, mint_user};
use arqon_spine::state::{FixedAccount, Role};
use arqon_spine::subjects;
use common::{
    Spine, barrier, create, errors, next, node, push_account, quiet, refused_publish,
    refused_subscribe, tenant, wish,
};
use nkeys::KeyPair;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_credentials_name_no_other_subject() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let globex = create(&admin, "globex").await;
    let mut a = spine.fleet(&acme).await;

    for subject in [
        ">",
        "*",
        "*.lobby",
        "*.>",
        "globex.>",
        "globex.lobby",
        "acm.lobby",
        "acme-2.lobby",
        "_INBOX.>",
        "_INBOX.*",
        "_R_.>",
        "_arq.>",
        "$SYS.>",
        "$JS.>",
        "$JS.API.>",
        "presence.>",
        "presence-events.>",
        &subjects::presence_out(&globex.account),
        &subjects::presence_in(&acme.account),
        "ctl.>",
        "shield.>",
    ] {
        refused_subscribe(&mut a, subject).await;
    }
    for subject in [
        "globex.lobby",
        "globex._presence.join",
        "acme._presence.join",
        "acme",
        "lobby",
        "_INBOX.other.x",
        "_arq.other",
        &format!("presence.{}.join.lobby", globex.account),
        &format!("presence.{}.join.lobby", acme.account),
        &format!("presence-events.{}.join.lobby", globex.account),
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.USER.INFO",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.x",
        "ctl.all.order",
        "shield.shield-1.beat",
    ] {
        refused_publish(&mut a, subject).await;
    }
    // A queue name is no way around either.
    let _queue = a
        .client
        .queue_subscribe("globex.>", "q".to_owned())
        .await
        .unwrap();
    let said = errors(&mut a).await;
    assert!(said.iter().any(|e| e.contains("globex.>")), "{said:?}");

    // And what it may, works.
    let mut rooms = a.client.subscribe("acme.>").await.unwrap();
    a.client.publish("acme.lobby", "x".into()).await.unwrap();
    assert_eq!(next(&mut rooms).await.subject.as_str(), "acme.lobby");
    assert_eq!(errors(&mut a).await, Vec::<String>::new());
}

/// An account with a key whose users may do anything in it, which no account
/// of ours has: what then still does not cross is kept apart by the accounts.
async fn with_master_key(
    spine: &Spine,
    record: &arqon_proto::v1::TenantRecord,
    imports: Vec<Import>,
) -> Connection {
    let key = KeyPair::new_account();
    let fleet = spine.state.fleet_key(&node("main")).unwrap();
    let mut claims = accounts::tenant_account(
        record,
        &tenant(&record.id),
        &[fleet.public().to_owned()],
        &spine.state.tenant_keys().unwrap(),
        accounts::DEFAULT_MAX_FRAME_BYTES,
    );
    let template = Template {
        publish: Permission::default(),
        subscribe: Permission::default(),
        ..accounts::fleet_template(81_920)
    };
    claims
        .body
        .signing_keys
        .push(Scope::new(key.public_key(), "master", template));
    claims.body.imports.extend(imports);
    push_account(spine, claims).await;
    let user = mint_user(
        &key,
        &record.account,
        "master",
        Some(Duration::from_secs(60)),
    )
    .unwrap();
    spine.user(user).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_crosses_accounts_whatever_the_permissions() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let globex = create(&admin, "globex").await;
    let master = with_master_key(&spine, &globex, Vec::new()).await;
    let mut everything = master.client.subscribe(">").await.unwrap();
    barrier(&master).await;
    while let Ok(Some(_)) = tokio::time::timeout(
        Duration::from_millis(50),
        futures_util::StreamExt::next(&mut everything),
    )
    .await
    {}

    let a = spine.fleet(&acme).await;
    let mut rooms = a.client.subscribe("acme.>").await.unwrap();
    let brain = spine.role(Role::Brain, "brain-1").await;
    barrier(&a).await;
    a.client.publish("acme.lobby", "a".into()).await.unwrap();
    a.client
        .publish("_arq.presence.join", "a".into())
        .await
        .unwrap();
    barrier(&a).await;
    brain
        .client
        .publish(format!("presence-events.{}.join", acme.account), "b".into())
        .await
        .unwrap();
    barrier(&brain).await;
    assert_eq!(next(&mut rooms).await.payload, "a");
    assert_eq!(
        next(&mut rooms).await.subject.as_str(),
        "acme._presence.join"
    );
    // All of it passed through the server before this barrier.
    barrier(&master).await;
    let seen = next(&mut everything).await;
    assert!(seen.subject.starts_with("_INBOX."), "{}", seen.subject);

    // The other way: this account may say acme's names, and acme hears nothing.
    for subject in ["acme.lobby", "acme._presence.join"] {
        master
            .client
            .publish(subject, "forged".into())
            .await
            .unwrap();
    }
    barrier(&master).await;
    barrier(&a).await;
    quiet(&mut rooms).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_speaks_for_the_account_that_sent_it() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let globex = create(&admin, "globex").await;
    let brain = spine.role(Role::Brain, "brain-1").await;
    let mut heard = brain.client.subscribe("presence.>").await.unwrap();
    barrier(&brain).await;

    let forged_in = Import {
        name: "forged-in".to_owned(),
        account: spine.state.account(FixedAccount::Brain).unwrap(),
        subject: subjects::presence_in(&acme.account),
        local_subject: "forged.>".to_owned(),
        kind: ShareKind::Service,
    };
    let forged_out = Import {
        name: "forged-out".to_owned(),
        subject: subjects::presence_out(&acme.account),
        local_subject: "spied.>".to_owned(),
        kind: ShareKind::Stream,
        ..forged_in.clone()
    };
    let master = with_master_key(&spine, &globex, vec![forged_in, forged_out]).await;
    let mut spied = master.client.subscribe("spied.>").await.unwrap();
    for subject in [
        format!("presence.{}.join", acme.account),
        format!("presence.{}.join", globex.account),
        "forged.join".to_owned(),
    ] {
        master
            .client
            .publish(subject, "forged".into())
            .await
            .unwrap();
    }
    barrier(&master).await;

    let a = spine.fleet(&acme).await;
    a.client
        .publish("_arq.presence.join.lobby", "true".into())
        .await
        .unwrap();
    let message = next(&mut heard).await;
    assert_eq!(
        message.subject.to_string(),
        format!("presence.{}.join.lobby", acme.account)
    );
    assert_eq!(message.payload, "true");
    barrier(&brain).await;
    quiet(&mut heard).await;

    // What Brain says to acme reaches acme alone.
    let mut events = a.client.subscribe("acme._presence.>").await.unwrap();
    barrier(&a).await;
    brain
        .client
        .publish(
            format!("presence-events.{}.join.lobby", acme.account),
            "b".into(),
        )
        .await
        .unwrap();
    assert_eq!(
        next(&mut events).await.subject.as_str(),
        "acme._presence.join.lobby"
    );
    barrier(&master).await;
    quiet(&mut spied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_key_mints_for_its_own_tenants_only() {
    let (spine, admin) = Spine::start().await;
    admin.create_pool(&node("other")).await.unwrap();
    let mut elsewhere = wish("globex");
    elsewhere.pool = node("other");
    let globex = admin.create_tenant(elsewhere).await.unwrap().record;
    let acme = create(&admin, "acme").await;
    let attempt = async |pool: &str, account: &str, id: &str| {
        let key = spine.state.fleet_key(&node(pool)).unwrap();
        let ttl = Duration::from_secs(60);
        let user = mint_tenant_user(&key, account, &tenant(id), "shield-1", ttl);
        connect_tenant(&spine.servers(), user, "test", TenantOptions::default()).await
    };
    barrier(&attempt("main", &acme.account, "acme").await.unwrap()).await;
    barrier(&attempt("other", &globex.account, "globex").await.unwrap()).await;
    for (pool, record) in [("main", &globex), ("other", &acme)] {
        let outcome = attempt(pool, &record.account, &record.id).await;
        assert!(
            matches!(outcome, Err(ConnectError::Refused { .. })),
            "{outcome:?}"
        );
    }
    for account in FixedAccount::ALL {
        let account = spine.state.account(account).unwrap();
        let outcome = attempt("main", &account, "acme").await;
        assert!(
            matches!(outcome, Err(ConnectError::Refused { .. })),
            "{outcome:?}"
        );
    }
    // Naming another tenant in the user changes nothing: the tag is the account's.
    let mut a = attempt("main", &acme.account, "globex").await.unwrap();
    refused_publish(&mut a, "globex.lobby").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_credentials_stay_in_their_tenant() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    create(&admin, "globex").await;
    let ttl = Duration::from_secs(60);
    let fleet = spine.fleet(&acme).await;

    let reader = admin.creds(&tenant("acme"), false, ttl).await.unwrap();
    let mut reader = spine.user(reader).await;
    let mut heard = reader.client.subscribe("acme.>").await.unwrap();
    for subject in [">", "globex.>", "*.lobby", "_arq.>", "$SYS.>"] {
        refused_subscribe(&mut reader, subject).await;
    }
    for subject in ["acme.lobby", "globex.lobby", "_arq.presence.x", "_INBOX.x"] {
        refused_publish(&mut reader, subject).await;
    }

    let writer = admin.creds(&tenant("acme"), true, ttl).await.unwrap();
    let mut writer = spine.user(writer).await;
    for subject in [
        "globex.lobby",
        "_arq.presence.x",
        "acme._presence.x",
        "$SYS.REQ.USER.INFO",
        "$JS.API.INFO",
    ] {
        refused_publish(&mut writer, subject).await;
    }
    writer
        .client
        .publish("acme.lobby", "hello".into())
        .await
        .unwrap();
    assert_eq!(next(&mut heard).await.payload, "hello");
    barrier(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_cannot_claim_more_than_its_key_grants() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let key = std::fs::read_to_string(spine.state.fleet_key_path(&node("main"))).unwrap();
    let key = KeyPair::from_seed(key.trim()).unwrap();
    let user = KeyPair::new_user();
    for (what, token) in [
        (
            "permissions",
            nats_jwt::Token::new_user(acme.account.clone(), user.public_key())
                .max_subscriptions(0)
                .max_data(0)
                .max_payload(0)
                .allow_subscribe(">"),
        ),
        (
            "limits",
            nats_jwt::Token::new_user(acme.account.clone(), user.public_key()),
        ),
        (
            "bearer",
            nats_jwt::Token::new_user(acme.account.clone(), user.public_key())
                .max_subscriptions(0)
                .max_data(0)
                .max_payload(0)
                .bearer_token(true),
        ),
    ] {
        let minted = arqon_spine::credentials::MintedUser {
            jwt: token.sign(&key),
            key_pair: KeyPair::from_seed(&user.seed().unwrap()).unwrap(),
            public_key: user.public_key(),
            expires_at: None,
        };
        let outcome =
            connect_tenant(&spine.servers(), minted, "test", TenantOptions::default()).await;
        assert!(
            matches!(outcome, Err(ConnectError::Refused { .. })),
            "{what}: {outcome:?}"
        );
    }
}
