//! Small HTTP requests to the parts of an ArqonBus.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::{Failure, Result, chain};

/// Status and body of a GET; `authority` are certificates to trust, and no others; without any,
/// the system's are, as for `wss://`.
pub(crate) async fn get(url: &str, authority: Option<&[u8]>) -> Result<(u16, String)> {
    let failed = |error: reqwest::Error| {
        Failure::new(format!(
            "{url} does not answer: {}",
            chain(&error.without_url())
        ))
    };
    let client = client(url, authority, Duration::from_secs(3))?;
    let answer = client.get(url).send().await.map_err(failed)?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(failed)?))
}

/// What asks this URL: names as everywhere in `arq`, no proxy, and no other place than this one.
pub(crate) fn client(
    url: &str,
    authority: Option<&[u8]>,
    limit: Duration,
) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        // The environment's proxy is for the outer world.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(arqon_resolver::Names)
        .timeout(limit);
    let builder = if url.starts_with("https:") {
        let tls = arqon_client::tls_config(authority)?;
        builder.tls_backend_preconfigured(Arc::unwrap_or_clone(tls))
    } else {
        // Else the system's authorities are read, and a system without any is an error.
        builder.tls_certs_only([])
    };
    Ok(builder.build()?)
}
