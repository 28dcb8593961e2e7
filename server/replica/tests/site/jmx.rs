//! What a JVM tells and does by JMX, as its agent asks it: over HTTP, with this start's password.

use serde_json::{Value, json};

use super::Site;

pub struct Jmx {
    http: reqwest::Client,
    url: String,
    user: String,
    password: String,
}

impl Jmx {
    /// Of the JVM that runs there now.
    pub fn of(site: &Site) -> Self {
        let text = std::fs::read_to_string(site.conf().join("jolokia.properties")).unwrap();
        let setting = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("no {key}")).to_owned()
        };
        let url = format!("http://127.0.0.1:{}/jolokia/", setting("port"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, url, user: setting("user"), password: setting("password") }
    }

    /// None if there is no such bean.
    async fn ask(&self, request: Value) -> Option<Value> {
        let request = self.http.post(&self.url).basic_auth(&self.user, Some(&self.password)).json(&request);
        let mut answer: Value = request.send().await.unwrap().json().await.unwrap();
        if answer["status"] == 404 {
            return None;
        }
        assert_eq!(answer["status"], 200, "{answer}");
        Some(answer["value"].take())
    }

    async fn read(&self, mbean: &str, attribute: &str) -> Option<Value> {
        self.ask(json!({ "type": "read", "mbean": mbean, "attribute": attribute })).await
    }

    pub async fn exec(&self, mbean: &str, operation: &str, arguments: Value) {
        let request = json!({ "type": "exec", "mbean": mbean, "operation": operation, "arguments": arguments });
        assert!(self.ask(request).await.is_some(), "no {mbean}");
    }

    /// Writes what is in memory of a keyspace to files.
    pub async fn flush(&self, keyspace: &str) {
        let operation = "forceKeyspaceFlush(java.lang.String,[Ljava.lang.String;)";
        self.exec("org.apache.cassandra.db:type=StorageService", operation, json!([keyspace, []])).await;
    }

    /// Whether nothing compacts this table by itself.
    pub async fn compaction_is_off(&self, keyspace: &str, table: &str) -> bool {
        let mbean = format!("org.apache.cassandra.db:type=Tables,keyspace={keyspace},table={table}");
        self.read(&mbean, "AutoCompactionDisabled").await.unwrap().as_bool().unwrap()
    }

    /// How many batches were executed of those that this name stands for (`Logged`, `Unlogged`).
    pub async fn batches(&self, kind: &str) -> u64 {
        let mbean = format!("org.apache.cassandra.metrics:type=Batch,name=PartitionsPer{kind}Batch");
        // The first batch makes the bean.
        self.read(&mbean, "Count").await.map_or(0, |count| count.as_u64().unwrap())
    }
}
