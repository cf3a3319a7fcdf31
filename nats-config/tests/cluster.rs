//! Three servers: a tenant created at one works at all.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arqon_proto::v1;
use arqon_spine::admin::Admin;
use arqon_spine::connect::{ConnectError, TenantOptions, connect_tenant};
use arqon_spine::credentials::mint_tenant_user;
use arqon_spine::server::{self, Io, Process};
use arqon_spine::server_config::{ClusterParams, ServerParams};
use arqon_spine::state::StateFolder;
use common::{PATIENCE, barrier, create, node, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn created_at_one_known_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateFolder::create(folder.path().join("spine")).unwrap();
    let binary = server::find().unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut all: Vec<ServerParams> = (1..=3)
        .map(|n| {
            let mut params = ServerParams::single(folder.path().join(format!("n{n}/store")));
            std::fs::create_dir_all(&params.store_dir).unwrap();
            params.name = format!("n{n}");
            params.cluster = Some(ClusterParams {
                name: "arqon".to_owned(),
                listen: loopback,
                routes: Vec::new(),
                advertise: None,
            });
            params
        })
        .collect();
    ServerParams::choose_all(&mut all).unwrap();
    let mut servers: Vec<Process> = all
        .into_iter()
        .map(|params| {
            let log = Io::File(folder.path().join(format!("{}.log", params.name)));
            Process::start(&binary, &state, params, log).unwrap()
        })
        .collect();
    let urls: Vec<String> = servers.iter().map(Process::url).collect();

    let admin = Admin::connect(&state, &urls).await.unwrap();
    admin.bootstrap(3, &node("main")).await.unwrap();
    let acme = create(&admin, "acme").await;
    let connect = async |url: &String, record: &v1::TenantRecord| {
        let key = state.fleet_key(&node("main")).unwrap();
        let ttl = Duration::from_secs(60);
        let user = mint_tenant_user(&key, &record.account, &tenant(&record.id), "s1", ttl);
        let servers = std::slice::from_ref(url);
        connect_tenant(servers, user, "test", TenantOptions::default()).await
    };
    for url in &urls {
        barrier(&connect(url, &acme).await.unwrap()).await;
    }

    // One is down while a tenant is suspended and another created.
    servers[2].kill().unwrap();
    let up = Admin::connect(&state, &urls[..2]).await.unwrap();
    // It may have led the records: until the others have elected, reads fail.
    let started = Instant::now();
    while let Err(error) = up.suspend(&tenant("acme")).await {
        assert!(started.elapsed() < PATIENCE, "{error:?}");
    }
    let globex = create(&up, "globex").await;

    servers[2].restart().unwrap();
    // At first it may not have found the others, whom it must ask.
    let started = Instant::now();
    while let Err(error) = connect(&urls[2], &globex).await {
        assert!(started.elapsed() < PATIENCE, "{error:?}");
    }
    let started = Instant::now();
    loop {
        match connect(&urls[2], &acme).await {
            Err(ConnectError::AccountFull { .. }) => break,
            other => assert!(started.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("suspended there after {:?}", started.elapsed());
    let back = Admin::connect(&state, &urls[2..]).await.unwrap();
    let started = Instant::now();
    loop {
        match back.show(&tenant("globex")).await {
            Ok(record) => break assert_eq!(record, globex),
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error:?}"),
        }
    }
}
