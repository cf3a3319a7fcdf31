//! Small HTTP requests to the parts of an ArqonBus.

use std::time::Duration;

use crate::failure::{Failure, Result, chain};

/// Status and body of a GET.
pub(crate) async fn get(url: &str) -> Result<(u16, String)> {
    let failed = |error: reqwest::Error| {
        Failure::new(format!(
            "{url} does not answer: {}",
            chain(&error.without_url())
        ))
    };
    let client = reqwest::Client::builder()
        // The environment's proxy is for the outer world.
        .no_proxy()
        .timeout(Duration::from_secs(3))
        .build()
        .map_err(failed)?;
    let answer = client.get(url).send().await.map_err(failed)?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(failed)?))
}
