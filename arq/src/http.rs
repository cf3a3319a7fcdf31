//! Small HTTP requests to the parts of an ArqonBus.

use std::time::Duration;

use crate::failure::{Failure, Result, chain};

/// Status and body of a GET; `authority` is a certificate to trust beside the system's.
pub(crate) async fn get(url: &str, authority: Option<&[u8]>) -> Result<(u16, String)> {
    let failed = |error: reqwest::Error| {
        Failure::new(format!(
            "{url} does not answer: {}",
            chain(&error.without_url())
        ))
    };
    let mut builder = reqwest::Client::builder()
        // The environment's proxy is for the outer world.
        .no_proxy()
        .timeout(Duration::from_secs(3));
    if let Some(pem) = authority {
        for certificate in reqwest::Certificate::from_pem_bundle(pem).map_err(failed)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    let client = builder.build().map_err(failed)?;
    let answer = client.get(url).send().await.map_err(failed)?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(failed)?))
}
