//! pgherd itself dies.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::checker::Verdict;
use crate::scene::Scene;

const ROUNDS: usize = 5;
/// A failover takes about as long.
const WITHIN_MS: u64 = 400;

/// At any point of a failover; it goes on where it was.
pub async fn killed_while_failing_over() -> Verdict {
    let mut scene = Scene::new().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut random = u64::from(now.subsec_nanos());
    scene.fault_begins();
    for _ in 0..ROUNDS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let delay = (random >> 33) % WITHIN_MS;
        let old = scene.primary_name();
        let logged = scene.cluster.product_log().len();
        scene.primary().kill9();
        let begun = Instant::now();
        while !scene.cluster.product_log()[logged..].contains("the primary is being changed") {
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing begins");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(delay)).await;
        scene.cluster.product().kill9();
        scene.cluster.restart_product().await;
        println!("       pgherd was killed {delay} ms after the verdict");
        scene.promoted_after(&old).await;
        scene.wait_until_one_reigns().await;
        scene.writes_flow().await;
        scene.rejoin(&old).await;
        scene.wait_until_acknowledged_by(2).await;
    }
    scene.end().await
}
