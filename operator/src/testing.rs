//! Helpers of the unit tests.

use crate::{
    crd::{Images, ReplicatedDB, ReplicatedDBSpec},
    validate::Defaults,
};

/// A resource as the API server would store it: all defaults.
pub fn resource(name: &str) -> ReplicatedDB {
    let mut rdb = ReplicatedDB::new(name, ReplicatedDBSpec::default());
    rdb.metadata.namespace = Some("shop".to_owned());
    rdb.metadata.uid = Some("0f0e0d0c-0000-4000-8000-000000000001".to_owned());
    rdb.metadata.generation = Some(1);
    rdb
}

/// An operator whose images are of version `tag`.
pub fn defaults(tag: &str) -> Defaults {
    let images = Images { zookeeper: format!("z:{tag}"), cassandra: format!("c:{tag}"), replica: format!("r:{tag}") };
    Defaults { images, namespace: "operators".to_owned(), ..Default::default() }
}
