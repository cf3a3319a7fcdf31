//! Blocks messages that are too long, of a wrong content type, or broken JSON.
//!
//! ```json
//! {
//!   "max_payload_bytes": 4096,
//!   "content_types": ["application/json", "text/*"],
//!   "content_type_header": "content-type",
//!   "require_content_type": false,
//!   "json": "declared",
//!   "max_json_depth": 64
//! }
//! ```
//!
//! The keys are explained at [`config::Config`].

pub mod config;
mod content_type;
mod json;

use arqon_policy_guest::{Message, Policy, Verdict, export};

use crate::{
    config::{Config, Json},
    content_type::{ContentType, Range},
};

/// The policy.
pub struct SizeAndShape {
    max_payload_bytes: Option<usize>,
    content_types: Option<Vec<Range>>,
    content_type_header: String,
    require_content_type: bool,
    json: Json,
    max_json_depth: usize,
}

impl Policy for SizeAndShape {
    fn configure(config: &[u8]) -> Result<Self, String> {
        let config = Config::parse(config)?;
        Ok(Self {
            content_types: config.ranges()?,
            max_payload_bytes: config.max_payload_bytes,
            content_type_header: config.content_type_header,
            require_content_type: config.require_content_type,
            json: config.json,
            max_json_depth: config.max_json_depth,
        })
    }

    fn on_message(&mut self, message: &Message) -> Verdict {
        match self.judge(message) {
            Ok(()) => Verdict::Allow,
            Err(reason) => Verdict::Block(reason),
        }
    }
}

impl SizeAndShape {
    fn judge(&self, message: &Message) -> Result<(), String> {
        let bytes = message.payload.len();
        if let Some(most) = self.max_payload_bytes
            && bytes > most
        {
            return Err(format!(
                "the payload has {bytes} bytes, at most {most} are allowed"
            ));
        }
        let declared_json = self.judge_content_type(message)?;
        let check = match self.json {
            Json::Never => false,
            Json::Declared => declared_json,
            Json::Always => true,
        };
        if check {
            json::check(&message.payload, self.max_json_depth)
                .map_err(|why| format!("the payload is no JSON: {why}"))?;
        }
        Ok(())
    }

    /// Whether it is said to be JSON. Names of headers that differ in capitals
    /// only are different headers to the platform, so each of them is looked at.
    fn judge_content_type(&self, message: &Message) -> Result<bool, String> {
        let name = &self.content_type_header;
        let mut json = false;
        let mut found = false;
        for header in &message.headers {
            if !header.name.eq_ignore_ascii_case(name) {
                continue;
            }
            found = true;
            let Some(content_type) = ContentType::parse(&header.value) else {
                if self.content_types.is_some() || self.require_content_type {
                    return Err(format!("the header {name} is no content type"));
                }
                continue;
            };
            if let Some(ranges) = &self.content_types
                && !ranges.iter().any(|range| range.contains(&content_type))
            {
                return Err(format!("the content type {content_type} is not allowed"));
            }
            json |= content_type.is_json();
        }
        if self.require_content_type && !found {
            return Err(format!("the header {name} is missing"));
        }
        Ok(json)
    }
}

export!(SizeAndShape);

#[cfg(test)]
mod tests;
