//! What single clients of a service have used up. Shared by all threads: a client has connections on each of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Most clients that are remembered at once. Beyond it, when none can be forgotten, new ones are not limited: to refuse
/// them would let a flood of addresses close the service.
const MOST_CLIENTS: usize = 65_536;

/// What one client may have, by its address; of IPv6 by its network of 64 bits, which is one customer's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerClient {
    /// Requests per second in the long run; none: no limit.
    #[serde(default)]
    pub rate: Option<u32>,
    /// Requests that may come at once before the rate holds; at least 1.
    #[serde(default = "one")]
    pub burst: u32,
    /// Requests in flight or waiting at once, WebSockets among them; none: no limit.
    #[serde(default)]
    pub at_once: Option<u32>,
    /// Connections open at once, on all listeners of the service; none: no limit.
    #[serde(default)]
    pub connections: Option<u32>,
}

fn one() -> u32 {
    1
}

impl PerClient {
    /// Says what makes it impossible.
    pub(crate) fn mistake(&self) -> Option<String> {
        let nothing = [self.rate, self.at_once, self.connections].contains(&Some(0)) || self.burst == 0;
        nothing.then(|| "a client with a limit of 0 gets nothing: leave the limit out".into())
    }
}

/// Clients that are limited.
#[derive(Debug)]
pub(crate) struct Clients {
    begun: Instant,
    known: Mutex<HashMap<IpAddr, Client>>,
}

#[derive(Debug, Default)]
struct Client {
    /// When it will have used up nothing any more, since `begun`.
    paid: Duration,
    at_once: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self { begun: Instant::now(), known: Mutex::default() }
    }
}

impl Clients {
    /// Lets a connection of a client in, if it has fewer than `most`.
    pub(crate) fn connect(self: &Arc<Self>, address: IpAddr, most: u32) -> Option<Option<Guest>> {
        let limit = PerClient { burst: 1, at_once: Some(most), ..PerClient::default() };
        self.enter(address, limit, Instant::now()).ok()
    }

    /// Lets a request of a client in; the error is the reason of its refusal.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        limit: PerClient,
        now: Instant,
    ) -> Result<Option<Guest>, &'static str> {
        let (address, now) = (network(address), now.saturating_duration_since(self.begun));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_CLIENTS && !known.contains_key(&address) {
            known.retain(|_, client| client.at_once > 0 || client.paid > now);
            if known.len() >= MOST_CLIENTS {
                return Ok(None);
            }
        }
        let client = known.entry(address).or_default();
        if limit.at_once.is_some_and(|most| client.at_once >= most) {
            return Err("client-busy");
        }
        if let Some(rate) = limit.rate {
            // The leaky bucket as a clock: each request pays one interval, and may be a burst of them in debt.
            let interval = Duration::from_secs(1) / rate.max(1);
            let paid = client.paid.max(now);
            if paid - now > interval * limit.burst.saturating_sub(1) {
                return Err("client-rate");
            }
            client.paid = paid + interval;
        }
        client.at_once += 1;
        Ok(Some(Guest { clients: self.clone(), address }))
    }
}

/// One request or connection of a client, until it ends.
#[derive(Debug)]
pub(crate) struct Guest {
    clients: Arc<Clients>,
    address: IpAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut known = self.clients.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get_mut(&self.address) {
            client.at_once = client.at_once.saturating_sub(1);
        }
    }
}

/// Returns the client that the load balancer before us names: it has added the last address.
pub(crate) fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next()?.trim().parse().ok()
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_load_balancer_has_the_last_word() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "10.0.0.1".parse().unwrap());
        headers.append("x-forwarded-for", "10.0.0.2, 192.0.2.7".parse().unwrap());
        assert_eq!(forwarded_for(&headers), Some(address("192.0.2.7")));
        headers.append("x-forwarded-for", "unknown".parse().unwrap());
        assert_eq!(forwarded_for(&headers), None);
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let clients = Arc::new(Clients::default());
        let limit = PerClient { rate: Some(10), burst: 5, ..PerClient::default() };
        let allowed = |client: &str, now: Instant| {
            (0..100).take_while(|_| clients.enter(address(client), limit, now).is_ok()).count()
        };
        let now = clients.begun;
        assert_eq!(allowed("192.0.2.1", now), 5);
        assert_eq!(allowed("192.0.2.2", now), 5, "each for itself");
        assert_eq!(allowed("::ffff:192.0.2.1", now), 0, "the same client by another family");
        assert_eq!(allowed("192.0.2.1", now + Duration::from_millis(300)), 3);
        assert_eq!(
            allowed("192.0.2.1", now + Duration::from_secs(60)),
            5,
            "nobody saves up more than a burst"
        );
    }

    #[test]
    fn so_many_at_once_and_a_network_is_one_client() {
        let clients = Arc::new(Clients::default());
        let limit = PerClient { burst: 1, at_once: Some(2), ..PerClient::default() };
        let now = clients.begun;
        let one = clients.enter(address("2001:db8::1"), limit, now).unwrap();
        let two = clients.enter(address("2001:db8::2"), limit, now).unwrap();
        assert_eq!(clients.enter(address("2001:db8::3"), limit, now).unwrap_err(), "client-busy");
        assert!(clients.enter(address("2001:db8:0:1::3"), limit, now).is_ok());
        drop(one);
        assert!(clients.enter(address("2001:db8::3"), limit, now).is_ok());
        drop(two);
    }

    #[test]
    fn memory_is_bounded_and_a_flood_of_addresses_closes_nothing() {
        let clients = Arc::new(Clients::default());
        let limit = PerClient { rate: Some(1), burst: 1, ..PerClient::default() };
        let now = clients.begun;
        let client = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..MOST_CLIENTS as u32 + 10 {
            assert!(clients.enter(client(n), limit, now).is_ok());
        }
        assert_eq!(clients.known.lock().unwrap().len(), MOST_CLIENTS);
        assert!(clients.enter(client(0), limit, now).is_err(), "who is known is limited on");
        // A second later all of them are forgotten.
        assert!(clients.enter(client(u32::MAX), limit, now + Duration::from_secs(1)).is_ok());
        assert_eq!(clients.known.lock().unwrap().len(), 1);
    }
}
