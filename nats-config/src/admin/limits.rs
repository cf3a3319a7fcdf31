//! What a tenant may use, changed while it is used.

use arqon_proto::names::TenantId;
use arqon_proto::v1::{TenantLimits, TenantRecord};

use super::roll::WaitFor;
use super::{Admin, AdminError, Answer, Census};
use crate::accounts::tenant_payload;
use crate::control::ControlError;

/// A tenant whose limits were looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsChanged {
    /// Its record.
    pub record: TenantRecord,
    /// The Shields, and whether the limits are in force there; `None` if nothing was changed.
    pub shields: Option<Vec<Answer<()>>>,
    /// NATS lets the tenant send larger messages still, for not every Shield
    /// goes by the lower limit: one that sent a larger one would be cut off.
    pub account_behind: bool,
}

impl Admin {
    /// Changes what a tenant may use, and waits for the Shields. What NATS
    /// enforces too is raised there first and lowered there last.
    pub async fn change_limits(
        &self,
        id: &TenantId,
        change: impl Fn(&mut TenantLimits),
        wait: WaitFor,
    ) -> Result<LimitsChanged, AdminError> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        let mut census = Census::open(self.control()).await?;
        loop {
            let (mut record, revision) = self.require(id).await?;
            let mut limits = record.limits.unwrap_or_default();
            let before = limits;
            change(&mut limits);
            if limits == before {
                self.settle(id, false).await?;
                return Ok(LimitsChanged {
                    record,
                    shields: None,
                    account_behind: false,
                });
            }
            record.limits = Some(limits);
            let payload = |limits| tenant_payload(limits, self.max_frame_bytes);
            let raised = payload(&limits) > payload(&before);
            if raised {
                self.push(id, &record, false).await?;
            }
            let written = match self.control().put_tenant(&record, revision).await {
                // Whoever was faster may have changed other limits.
                Err(ControlError::Conflict { .. }) => continue,
                written => written?,
            };
            if raised {
                // Whoever else was at it may have pushed by the older record meanwhile.
                self.settle(id, false).await?;
            }
            let shields = census.wait_tenants(written, wait).await?;
            let lowered = payload(&limits) < payload(&before);
            let account_behind = lowered && shields.iter().any(|answer| answer.said.is_none());
            if !account_behind {
                self.settle(id, false).await?;
            }
            return Ok(LimitsChanged {
                record,
                shields: Some(shields),
                account_behind,
            });
        }
    }
}
