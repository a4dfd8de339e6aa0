//! Whether the instance accepts a connection.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::tries::Miss;

/// Connects to the instance.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Miss> {
    TcpStream::connect(address).await.map_err(|error| Miss::io(&error))
}
