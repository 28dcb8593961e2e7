use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    statement::Consistency,
};

pub async fn quickstart(host: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    // One replica is enough: the driver finds the others.
    let session: Session = SessionBuilder::new().known_node(host).build().await?;
    let keyspace = "CREATE KEYSPACE IF NOT EXISTS shop_rust WITH replication = \
                    {'class': 'SimpleStrategy', 'replication_factor': 3}";
    session.query_unpaged(keyspace, ()).await?;
    session.query_unpaged("CREATE TABLE IF NOT EXISTS shop_rust.orders (id int PRIMARY KEY, item text)", ()).await?;

    let insert = session.prepare("INSERT INTO shop_rust.orders (id, item) VALUES (?, ?)").await?;
    session.execute_unpaged(&insert, (1, "tea")).await?;

    let mut select = session.prepare("SELECT item FROM shop_rust.orders WHERE id = ?").await?;
    select.set_consistency(Consistency::Quorum); // sees every write acknowledged before it
    let (item,) = session.execute_unpaged(&select, (1,)).await?.into_rows_result()?.single_row::<(String,)>()?;
    Ok(item)
}
