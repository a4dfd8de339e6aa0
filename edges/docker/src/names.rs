//! What containers are called, and the labels by which they are found again.

use std::collections::HashMap;

use cutover_core::{Fence, InstanceId, ProcessName, RevisionId, ServiceName};

/// Whose container it is: the state folder that made it.
pub(crate) const OWNER: &str = "cutover.owner";
pub(crate) const SERVICE: &str = "cutover.service";
const REVISION: &str = "cutover.revision";
const PROCESS: &str = "cutover.process";
const NUMBER: &str = "cutover.number";
const INSTANCE: &str = "cutover.instance";
/// The hash of what the container was made from.
const SPEC: &str = "cutover.spec";
/// The fence of the driver that made it.
const FENCE: &str = "cutover.fence";
/// The port that it listens on inside; routed instances alone have one.
const PORT: &str = "cutover.port";

/// What revisions of this platform begin with, and their instances: it tells them from those of other platforms.
const MARK: &str = "d-";

/// Tells whether the revision is one of containers.
pub fn is_revision(revision: &RevisionId) -> bool {
    revision.as_str().starts_with(MARK)
}

/// Tells whether the instance is a container.
pub fn is_instance(instance: &InstanceId) -> bool {
    instance.as_str().starts_with(MARK)
}

/// Returns the revision of this content.
pub(crate) fn revision(hash: &str) -> RevisionId {
    RevisionId::new(format!("{MARK}{}", hash.get(..12).unwrap_or(hash)))
}

/// Which container of a service it is. Two of the same place are the same container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) revision: RevisionId,
    /// The process beside the routed one; none of a routed instance.
    pub(crate) beside: Option<ProcessName>,
    /// From 1.
    pub(crate) number: u32,
}

impl Place {
    /// Returns the name of its container: the engine lets nobody make a second one of it.
    pub(crate) fn container(&self, service: &ServiceName) -> String {
        let process = self.beside.as_ref().map(|name| format!("{name}-")).unwrap_or_default();
        format!("cutover-{service}-{}-{process}{}", self.revision, self.number)
    }

    /// Returns the name of a new instance at this place; `random` tells it from those that were there before.
    pub(crate) fn instance(&self, random: &str) -> InstanceId {
        let hash = self.revision.as_str().trim_start_matches(MARK);
        let short = hash.get(..6).unwrap_or(hash);
        let process = self.beside.as_ref().map(|name| format!("{name}-")).unwrap_or_default();
        InstanceId::new(format!("{MARK}{short}-{process}{}-{random}", self.number))
    }
}

/// What the labels of a container say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) owner: String,
    pub(crate) service: ServiceName,
    pub(crate) place: Place,
    pub(crate) instance: InstanceId,
    pub(crate) spec: String,
    pub(crate) port: Option<u16>,
}

impl Labels {
    /// Returns them as the engine takes them.
    pub(crate) fn write(&self, fence: Fence) -> HashMap<String, String> {
        let mut labels = HashMap::from([
            (OWNER.into(), self.owner.clone()),
            (SERVICE.into(), self.service.to_string()),
            (REVISION.into(), self.place.revision.to_string()),
            (NUMBER.into(), self.place.number.to_string()),
            (INSTANCE.into(), self.instance.to_string()),
            (SPEC.into(), self.spec.clone()),
            (FENCE.into(), fence.to_string()),
        ]);
        labels.extend(self.place.beside.iter().map(|name| (PROCESS.into(), name.to_string())));
        labels.extend(self.port.map(|port| (PORT.into(), port.to_string())));
        labels
    }

    /// Reads them; none where somebody else made the container.
    pub(crate) fn read(labels: &HashMap<String, String>) -> Option<Labels> {
        let text = |key: &str| labels.get(key).cloned();
        Some(Labels {
            owner: text(OWNER)?,
            service: ServiceName::new(text(SERVICE)?),
            place: Place {
                revision: RevisionId::new(text(REVISION)?),
                beside: text(PROCESS).map(ProcessName::new),
                number: text(NUMBER)?.parse().ok()?,
            },
            instance: InstanceId::new(text(INSTANCE)?),
            spec: text(SPEC)?,
            port: text(PORT).and_then(|port| port.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_they_were_written() {
        let place =
            Place { revision: revision("0123456789abcdef"), beside: Some("worker".into()), number: 2 };
        assert_eq!(place.container(&"shop".into()), "cutover-shop-d-0123456789ab-worker-2");
        let instance = place.instance("00ff");
        assert_eq!(instance.as_str(), "d-012345-worker-2-00ff");
        let labels = Labels {
            owner: "me".into(),
            service: "shop".into(),
            place,
            instance,
            spec: "abc".into(),
            port: Some(80),
        };
        let mut written = labels.write(Fence { epoch: 1, sequence: 2 });
        assert_eq!(Labels::read(&written), Some(labels));
        written.remove(NUMBER);
        assert_eq!(Labels::read(&written), None);
    }
}
