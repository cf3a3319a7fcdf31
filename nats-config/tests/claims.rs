//! The claims as JSON, kept in `golden/`, and taken by a real server.
//!
//! After a wanted change, run with `ARQON_BLESS=1` and read the difference.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use arqon_proto::v1;
use arqon_spine::accounts::{self, ControlKeys, TenantKeys};
use arqon_spine::claims::{
    AccountClaims, Claims, ClaimsError, Generic, GenericClaims, Operator, OperatorClaims,
    OperatorKind, User, UserClaims, VERSION,
};
use arqon_spine::connect::{ConnectError, TenantOptions, connect_user};
use arqon_spine::credentials::mint_user;
use arqon_spine::state::Role;
use common::{Spine, barrier, create, ends, push_account, tenant};
use nkeys::KeyPair;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Same claims, same signer, same time: the JWT is the same to the last byte.
fn golden<B>(name: &str, mut claims: Claims<B>)
where
    B: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug,
{
    claims.issued_at = 1_700_000_000;
    let signer = KeyPair::from_seed(OPERATOR_SEED).unwrap();
    let jwt = claims.clone().sign(&signer).unwrap();
    let read = Claims::<B>::decode(&jwt).unwrap();
    assert_eq!(read.body, claims.body);
    assert_eq!(read.subject, claims.subject);
    assert_eq!(read.issuer, signer.public_key());
    let text = serde_json::to_string_pretty(&read).unwrap() + "\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.json"));
    if std::env::var_os("ARQON_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, kept, "{} differs", path.display());
}

/// Not a secret of anything: made for this test.
const OPERATOR_SEED: &str = "SOAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H2AJA";
const ACCOUNT: &str = "AAAACAQDAQCQMBYIBEFAWDANBYHRAEISCMKBKFQXDAMRUGY4DUPB776S";
const OTHER: &str = "AAQCCIRDEQSSMJZIFEVCWLBNFYXTAMJSGM2DKNRXHA4TUOZ4HU7D6H4F";

fn keys() -> TenantKeys {
    TenantKeys {
        debug_read: "ADEBUGREAD".to_owned(),
        debug_write: "ADEBUGWRITE".to_owned(),
        brain_account: OTHER.to_owned(),
    }
}

#[test]
fn accounts_are_as_written_down() {
    let mut record = v1::TenantRecord {
        id: "acme".to_owned(),
        account: ACCOUNT.to_owned(),
        ..Default::default()
    };
    record.set_state(v1::TenantState::Active);
    let fleet = ["AFLEET2".to_owned(), "AFLEET1".to_owned()];
    let build = |record: &v1::TenantRecord| {
        let frame = accounts::DEFAULT_MAX_FRAME_BYTES;
        accounts::tenant_account(record, &tenant("acme"), &fleet, &keys(), frame)
    };
    golden("tenant", build(&record));
    let active = build(&record);
    record.set_state(v1::TenantState::Suspended);
    let suspended = build(&record);
    assert_eq!(suspended.body.limits.conn, 0);
    record.set_state(v1::TenantState::Unspecified);
    assert_eq!(build(&record).body, suspended.body);
    let mut back = suspended.body;
    back.limits.conn = active.body.limits.conn;
    assert_eq!(back, active.body);

    // What NATS can hold a tenant to is in the account, and in no template: those cut connections.
    record.set_state(v1::TenantState::Active);
    record.limits = Some(v1::TenantLimits {
        max_payload_bytes: 50_000,
        max_header_bytes: 616,
        ..Default::default()
    });
    let mut small = build(&record);
    assert_eq!(small.body.limits.payload, 50_616 + 16 * 1024);
    record.limits = Some(v1::TenantLimits {
        max_payload_bytes: 1,
        ..Default::default()
    });
    // Presence needs so much.
    assert_eq!(build(&record).body.limits.payload, 64 * 1024);
    small.body.limits.payload = active.body.limits.payload;
    assert_eq!(small.body, active.body);

    golden("system", accounts::system_account(ACCOUNT, "ACONTROLPLANE"));
    let keys = ControlKeys {
        shield: "ASHIELD".to_owned(),
        brain: "ABRAIN".to_owned(),
        admin: "AADMIN".to_owned(),
    };
    golden("control", accounts::control_account(ACCOUNT, &keys));
    golden("brain", accounts::brain_account(ACCOUNT, "ABRAIN"));
}

#[test]
fn operator_user_and_request_are_as_written_down() {
    golden(
        "operator",
        OperatorClaims::new(
            "OIDENTITY",
            "arqonbus",
            Operator {
                signing_keys: vec!["OSIGNING".to_owned()],
                system_account: ACCOUNT.to_owned(),
                strict_signing_key_usage: true,
                kind: OperatorKind::Operator,
                version: VERSION,
            },
        ),
    );
    let mut user = UserClaims::new("UUSER", "shield-1", User::scoped(ACCOUNT));
    user.expires_at = Some(1_700_003_600);
    golden("user", user);
    golden(
        "delete",
        GenericClaims::new("OSIGNING", "delete", Generic::delete(ACCOUNT)),
    );
}

#[test]
fn what_was_tampered_with_is_not_read() {
    let signer = KeyPair::new_operator();
    let claims = accounts::brain_account(ACCOUNT, "ABRAIN");
    let jwt = claims.clone().sign(&signer).unwrap();
    AccountClaims::decode(&jwt).unwrap();
    let other = accounts::system_account(ACCOUNT, "ABRAIN")
        .sign(&signer)
        .unwrap();
    let parts = |jwt: &str| -> Vec<String> { jwt.split('.').map(str::to_owned).collect() };
    let (one, two) = (parts(&jwt), parts(&other));
    let mixed = format!("{}.{}.{}", one[0], two[1], one[2]);
    assert!(matches!(
        AccountClaims::decode(&mixed),
        Err(ClaimsError::Signature { .. })
    ));
    for not in ["", "a.b", "a.b.c", "....", &jwt[..jwt.len() - 4], &jwt[1..]] {
        assert!(AccountClaims::decode(not).is_err(), "{not}");
    }
    assert!(matches!(
        UserClaims::decode(&jwt),
        Err(ClaimsError::Json(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_honours_every_part() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let account = |change: &dyn Fn(&mut AccountClaims)| {
        let fleet = spine.state.fleet_key(&common::node("main")).unwrap();
        let mut claims = accounts::tenant_account(
            &acme,
            &tenant("acme"),
            &[fleet.public().to_owned()],
            &spine.state.tenant_keys().unwrap(),
            accounts::DEFAULT_MAX_FRAME_BYTES,
        );
        change(&mut claims);
        claims
    };

    // Revocation of one user, then of all up to now.
    let connection = spine.fleet(&acme).await;
    let user = connection.user.clone();
    let now = Claims::<()>::new("", "", ()).issued_at;
    push_account(
        &spine,
        account(&|claims| {
            claims.body.revocations.insert(user.clone(), now);
        }),
    )
    .await;
    let words = ends(connection.events).await;
    assert!(words.iter().any(|w| w.contains("Revoked")), "{words:?}");
    push_account(&spine, account(&|_| {})).await;

    // The largest payload is heard, one byte more ends the connection.
    let connection = spine.fleet(&acme).await;
    let largest =
        usize::try_from(accounts::account_payload(accounts::DEFAULT_MAX_FRAME_BYTES)).unwrap();
    let mut room = connection.client.subscribe("acme.lobby").await.unwrap();
    let payload = bytes::Bytes::from(vec![b'x'; largest]);
    connection
        .client
        .publish("acme.lobby", payload)
        .await
        .unwrap();
    assert_eq!(common::next(&mut room).await.payload.len(), largest);
    let payload = bytes::Bytes::from(vec![b'x'; largest + 1]);
    connection
        .client
        .publish("acme.lobby", payload)
        .await
        .unwrap();
    let words = ends(connection.events).await;
    assert!(
        words.iter().any(|w| w.contains("Maximum Payload")),
        "{words:?}"
    );

    // As many subscriptions as the template says, and no more.
    let mut connection = spine.fleet(&acme).await;
    let mut all = Vec::new();
    for n in 0..accounts::TEMPLATE_SUBS {
        all.push(
            connection
                .client
                .subscribe(format!("acme.r{n}"))
                .await
                .unwrap(),
        );
    }
    connection
        .client
        .publish("acme.r10015", "x".into())
        .await
        .unwrap();
    assert_eq!(common::next(all.last_mut().unwrap()).await.payload, "x");
    all.push(connection.client.subscribe("acme.more").await.unwrap());
    let text = tokio::time::timeout(common::PATIENCE, async {
        loop {
            match connection.events.recv().await.unwrap() {
                arqon_spine::connect::SpineEvent::ServerError(text) => break text,
                _ => continue,
            }
        }
    })
    .await
    .unwrap();
    assert!(text.contains("maximum subscriptions exceeded"), "{text}");

    // An account that another operator signed is stored, and never honoured.
    let foreign = KeyPair::new_operator();
    let system = spine.role(Role::ControlPlane, "arq").await;
    let jwt = account(&|claims| claims.body.limits.payload = 1)
        .sign(&foreign)
        .unwrap();
    system
        .client
        .request("$SYS.REQ.CLAIMS.UPDATE", jwt.into())
        .await
        .unwrap();
    let connection = spine.fleet(&acme).await;
    barrier(&connection).await;
    // What we assert overwrites it, or a restart of the server would use it.
    let report = admin.reassert().await.unwrap();
    assert_eq!(report.pushed, ["acme"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_user_is_refused() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let key = spine.state.debug_key(false).unwrap();
    let mut user = mint_user(&key, &acme.account, "x", Some(Duration::from_secs(60))).unwrap();
    let mut claims = UserClaims::new(user.public_key.clone(), "x", User::scoped(&acme.account));
    claims.expires_at = Some(claims.issued_at - 1);
    user.jwt = claims.sign(&key).unwrap();
    let outcome = connect_user(&spine.servers(), user, "test", &TenantOptions::default()).await;
    assert!(
        matches!(outcome, Err(ConnectError::Refused { .. })),
        "{outcome:?}"
    );
}
