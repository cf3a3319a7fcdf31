//! The configuration.

use serde::Deserialize;

use crate::content_type::Range;

/// Deepest nesting that may be allowed.
pub const MAX_JSON_DEPTH: usize = 1024;

/// What the JSON of a binding says. Keys that are not here are refused, and so
/// is a configuration that checks nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most bytes of a payload.
    pub max_payload_bytes: Option<usize>,
    /// Content types that may pass: `application/json`, `text/*`, `*/*`. The
    /// parameters that a message's has (`; charset=utf-8`) and capitals do not
    /// matter.
    pub content_types: Option<Vec<String>>,
    /// The application header that has it.
    pub content_type_header: String,
    /// Whether a message must have that header. Else one without it passes.
    pub require_content_type: bool,
    /// Which payloads must be JSON.
    pub json: Json,
    /// Deepest nesting of arrays and objects.
    pub max_json_depth: usize,
}

/// Which payloads must be JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Json {
    /// None.
    Never,
    /// Those whose content type is `application/json` or ends in `+json`.
    Declared,
    /// All.
    Always,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_payload_bytes: None,
            content_types: None,
            content_type_header: "content-type".into(),
            require_content_type: false,
            json: Json::Never,
            max_json_depth: 64,
        }
    }
}

impl Config {
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(config: &[u8]) -> Result<Self, String> {
        if config.trim_ascii().is_empty() {
            return Err(r#"the configuration is empty: give {"max_payload_bytes":…}"#.into());
        }
        let config: Self =
            serde_json::from_slice(config).map_err(|e| format!("the configuration: {e}"))?;
        let idle = config.max_payload_bytes.is_none()
            && config.content_types.is_none()
            && !config.require_content_type
            && config.json == Json::Never;
        if idle {
            return Err(
                "nothing to check: set max_payload_bytes, content_types, require_content_type or json"
                    .into(),
            );
        }
        if config.content_type_header.is_empty() {
            return Err("content_type_header: empty".into());
        }
        if !(1..=MAX_JSON_DEPTH).contains(&config.max_json_depth) {
            return Err(format!("max_json_depth: from 1 to {MAX_JSON_DEPTH}"));
        }
        Ok(config)
    }

    pub(crate) fn ranges(&self) -> Result<Option<Vec<Range>>, String> {
        let Some(texts) = &self.content_types else {
            return Ok(None);
        };
        if texts.is_empty() {
            return Err("content_types: empty; leave it out to allow all".into());
        }
        let parse = |(at, text): (usize, &String)| {
            Range::parse(text)
                .ok_or_else(|| format!("content_types[{at}]: neither type/subtype nor type/*"))
        };
        texts
            .iter()
            .enumerate()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Some)
    }
}
