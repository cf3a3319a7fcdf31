//! The two transports of OTLP.

use std::{path::Path, time::Duration};

use arqon_resolver::Names;
use arqon_spine::manifest::{self, OtlpProtocol, OtlpTarget};
use bytes::Bytes;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_client::MetricsServiceClient,
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_client::TraceServiceClient,
    },
};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tonic::{
    metadata::{Ascii, MetadataKey, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::StartError;
use crate::roots;

/// Requests that tonic keeps for a connection; there is one at a time.
const BUFFER: usize = 2;
/// Bytes of a receiver's own words that are told.
const MAX_WORDS: usize = 256;
/// What a receiver may answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The URL is none, or TLS cannot be set up.
    #[error("the endpoint cannot be used")]
    Endpoint(#[source] tonic::transport::Error),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
    /// No answer.
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    /// An answer that means no.
    #[error("the receiver answered {0}")]
    Status(reqwest::StatusCode),
    /// The same by gRPC.
    #[error("the receiver answered {code:?}: {message}")]
    Grpc {
        /// The code.
        code: tonic::Code,
        /// What it said of it.
        message: String,
    },
    /// No answer in time.
    #[error("the receiver did not answer in {0:?}")]
    TimedOut(Duration),
}

/// A receiver of one signal.
#[derive(Debug)]
pub(super) struct Sender {
    endpoint: String,
    timeout: Duration,
    transport: Transport,
}

#[derive(Debug)]
enum Transport {
    Grpc {
        channel: Channel,
        metadata: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    },
    Http(reqwest::Client),
}

/// The headers of a file.
pub(super) fn read_headers(path: &Path) -> Result<Vec<(String, String)>, StartError> {
    let text = std::fs::read_to_string(path).map_err(|source| StartError::Headers {
        path: path.to_owned(),
        source,
    })?;
    manifest::parse_headers(&text).map_err(|line| StartError::Header {
        path: path.to_owned(),
        line,
    })
}

// === impl Sender ===

impl Sender {
    pub(super) fn new(
        target: &OtlpTarget,
        headers: &[(String, String)],
        timeout: Duration,
    ) -> Result<Self, SendError> {
        let transport = match target.protocol {
            OtlpProtocol::Grpc => Transport::grpc(&target.endpoint, headers, timeout)?,
            OtlpProtocol::Http => Transport::http(headers)?,
        };
        Ok(Self {
            endpoint: target.endpoint.clone(),
            timeout,
            transport,
        })
    }

    /// Where it is.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends spans. How many of them the receiver refused.
    pub(super) async fn traces(
        &self,
        request: ExportTraceServiceRequest,
    ) -> Result<u64, SendError> {
        let send = async {
            Ok(match &self.transport {
                Transport::Grpc { channel, metadata } => {
                    let request = with_metadata(request, metadata);
                    let mut client = TraceServiceClient::new(channel.clone());
                    let answer = client.export(request).await.map_err(grpc)?;
                    answer.into_inner()
                }
                Transport::Http(client) => {
                    let answer = self.post(client, request.encode_to_vec()).await?;
                    // A receiver that answers nothing took all.
                    ExportTraceServiceResponse::decode(answer).unwrap_or_default()
                }
            })
        };
        let answer = self.in_time(send).await?;
        let rejected = answer.partial_success.map(|part| part.rejected_spans);
        Ok(rejected.unwrap_or(0).try_into().unwrap_or(0))
    }

    /// Sends metrics. How many of their points the receiver refused.
    pub(super) async fn metrics(
        &self,
        request: ExportMetricsServiceRequest,
    ) -> Result<u64, SendError> {
        let send = async {
            Ok(match &self.transport {
                Transport::Grpc { channel, metadata } => {
                    let request = with_metadata(request, metadata);
                    let mut client = MetricsServiceClient::new(channel.clone());
                    let answer = client.export(request).await.map_err(grpc)?;
                    answer.into_inner()
                }
                Transport::Http(client) => {
                    let answer = self.post(client, request.encode_to_vec()).await?;
                    ExportMetricsServiceResponse::decode(answer).unwrap_or_default()
                }
            })
        };
        let answer = self.in_time(send).await?;
        let rejected = answer.partial_success.map(|part| part.rejected_data_points);
        Ok(rejected.unwrap_or(0).try_into().unwrap_or(0))
    }

    async fn in_time<T>(
        &self,
        send: impl Future<Output = Result<T, SendError>>,
    ) -> Result<T, SendError> {
        let sent = tokio::time::timeout(self.timeout, send).await;
        sent.unwrap_or(Err(SendError::TimedOut(self.timeout)))
    }

    async fn post(&self, client: &reqwest::Client, body: Vec<u8>) -> Result<Bytes, SendError> {
        let request = client
            .post(&self.endpoint)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body);
        let mut response = request.send().await.map_err(without_url)?;
        if !response.status().is_success() {
            return Err(SendError::Status(response.status()));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(without_url)? {
            if answer.len() + chunk.len() > MAX_ANSWER {
                break;
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer.into())
    }
}

// === impl Transport ===

impl Transport {
    fn grpc(
        endpoint: &str,
        headers: &[(String, String)],
        timeout: Duration,
    ) -> Result<Self, SendError> {
        let mut at = Endpoint::from_shared(endpoint.to_owned()).map_err(SendError::Endpoint)?;
        // A receiver that takes connections and says nothing is left, and what
        // was given up does not pile up in front of it.
        at = at
            .connect_timeout(timeout)
            .http2_keep_alive_interval(timeout)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true)
            .buffer_size(BUFFER);
        if endpoint.starts_with("https://") {
            let roots = roots::system().into_iter().filter_map(|der| {
                let anchor = rustls_pki_types::TrustAnchor::to_owned;
                Some(anchor(&webpki::anchor_from_trusted_cert(&der).ok()?))
            });
            let tls = ClientTlsConfig::new().trust_anchors(roots.collect::<Vec<_>>());
            at = at.tls_config(tls).map_err(SendError::Endpoint)?;
        }
        let metadata = headers.iter().filter_map(|(name, value)| {
            let name = MetadataKey::from_bytes(name.as_bytes()).ok()?;
            Some((name, value.parse().ok()?))
        });
        let mut http = HttpConnector::new_with_resolver(Names);
        http.enforce_http(false);
        http.set_nodelay(true);
        Ok(Self::Grpc {
            // Tried at the first export, and again at each one after a failure.
            channel: at.connect_with_connector_lazy(http),
            metadata: metadata.collect(),
        })
    }

    fn http(headers: &[(String, String)]) -> Result<Self, SendError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            if let (Ok(name), Ok(mut value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                value.set_sensitive(true);
                map.append(name, value);
            }
        }
        let roots = roots::system().into_iter();
        let roots = roots.filter_map(|der| reqwest::Certificate::from_der(&der).ok());
        let client = reqwest::Client::builder()
            // HTTP_PROXY has no say here.
            .no_proxy()
            .dns_resolver(Names)
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(roots)
            .default_headers(map)
            .build()
            .map_err(SendError::Client)?;
        Ok(Self::Http(client))
    }
}

fn with_metadata<T>(
    request: T,
    metadata: &[(MetadataKey<Ascii>, MetadataValue<Ascii>)],
) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    for (name, value) in metadata {
        request.metadata_mut().append(name.clone(), value.clone());
    }
    request
}

/// The endpoint is told beside the error.
fn without_url(error: reqwest::Error) -> SendError {
    SendError::Request(error.without_url())
}

fn grpc(status: tonic::Status) -> SendError {
    let message = status.message();
    SendError::Grpc {
        code: status.code(),
        message: message[..message.floor_char_boundary(MAX_WORDS)].to_owned(),
    }
}
