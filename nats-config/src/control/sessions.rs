//! What Shields say of their sessions when they are asked.

use arqon_proto::names::NodeId;
use arqon_proto::v1;
use futures_util::stream::{BoxStream, StreamExt};
use prost::Message as _;

use super::{ControlError, ControlStore, typed};
use crate::subjects;

const SESSIONS: &str = "sessions";

impl ControlStore {
    /// Publishes a page of a Shield's answer.
    pub async fn publish_sessions(
        &self,
        id: &NodeId,
        report: &v1::SessionsReport,
    ) -> Result<(), ControlError> {
        let subject = subjects::shield_sessions(id);
        self.publish(subject, SESSIONS, report.encode_to_vec())
            .await
    }

    /// The answers of all Shields, as [`Self::subscribe_beats`].
    pub async fn subscribe_sessions(
        &self,
    ) -> Result<BoxStream<'static, v1::SessionsReport>, ControlError> {
        let messages = self
            .subscribe(subjects::shields_sessions().to_owned())
            .await?;
        Ok(messages
            .filter_map(|message| async move {
                let report = v1::SessionsReport::decode(typed(&message, SESSIONS)?).ok()?;
                let id = NodeId::parse(&report.shield).ok()?;
                (message.subject.as_str() == subjects::shield_sessions(&id)).then_some(report)
            })
            .boxed())
    }
}
