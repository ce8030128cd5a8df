use super::oracle::RandomGraph;
use super::*;
use crate::testkit::Rng;

fn check_one(seed: u64) {
    let mut rng = Rng::new(seed);
    let steps = 1 + rng.below(25);
    let random = RandomGraph::new(&mut rng, steps);
    let mut graph = &random.graph;
    graph.check();
    let everything = random.version(graph.frontier());
    assert_eq!(graph.frontier(), random.heads(&everything));
    for _ in 0..4 {
        let (a, b) = (random.some_events(&mut rng), random.some_events(&mut rng));
        assert_eq!(difference(&mut graph, &a, &b).unwrap(), random.difference(&a, &b), "difference of {a:?}, {b:?}");
        assert_eq!(compare(&mut graph, &a, &b).unwrap(), random.compare(&a, &b), "compare {a:?}, {b:?}");
        assert_eq!(lca(&mut graph, &a, &b).unwrap(), random.lca(&a, &b), "lca of {a:?}, {b:?}");
        let version = random.version(&a);
        assert_eq!(heads_of(&mut graph, &a).unwrap(), random.heads(&version), "heads of {a:?}");
        let vector = version_vector(&mut graph, &a).unwrap();
        let slow = version.iter().map(|id| (id.peer, id.counter)).collect();
        assert_eq!(vector, slow, "version vector of {a:?}");
    }
}

#[test]
fn walks_agree_with_ancestor_sets() {
    for seed in 0..30_000 {
        std::panic::catch_unwind(|| check_one(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

/// Counts the probes.
struct Counted<'g>(&'g Graph, usize);

impl Runs for Counted<'_> {
    fn run_at(&mut self, id: LocalId) -> Result<Option<RunHead>> {
        self.1 += 1;
        self.0.run_at(id)
    }
}

/// Two peers who wrote `n` runs in turn, and then one run each without the other's.
fn ladder(n: u64) -> (Graph, [LocalId; 2]) {
    let mut graph = Graph::new();
    let peers = [graph.peer("a"), graph.peer("b")];
    for i in 0..n {
        let deps = graph.frontier().to_vec();
        let peer = peers[i as usize % 2];
        let counter_start = graph.next_counter(peer);
        graph.push(RunHead { peer, counter_start, len: 3, lamport_start: i * 3, deps }).unwrap();
    }
    let deps = graph.frontier().to_vec();
    let tips = peers.map(|peer| {
        let counter_start = graph.next_counter(peer);
        graph.push(RunHead { peer, counter_start, len: 5, lamport_start: n * 3, deps: deps.clone() }).unwrap();
        LocalId { peer, counter: counter_start + 4 }
    });
    (graph, tips)
}

#[test]
fn the_cost_follows_the_difference() {
    let probes = [100, 100_000].map(|n| {
        let (graph, [a, b]) = ladder(n);
        let mut counted = Counted(&graph, 0);
        assert_eq!(compare(&mut counted, &[a], &[b]).unwrap(), Relation::Concurrent);
        assert_eq!(lca(&mut counted, &[a], &[b]).unwrap().len(), 1);
        counted.1
    });
    assert_eq!(probes[0], probes[1]);
    assert!(probes[0] < 20, "{} probes", probes[0]);
}

#[test]
fn garbage_is_an_error() {
    let mut graph = Graph::new();
    let (a, b) = (graph.peer("a"), graph.peer("b"));
    let id = |peer, counter| LocalId { peer, counter };
    let run = |peer, counter_start, lamport_start, deps| RunHead { peer, counter_start, len: 1, lamport_start, deps };
    assert!(graph.push(run(a, 1, 5, vec![])).is_err(), "a hole");
    graph.push(run(a, 0, 5, vec![])).unwrap();
    assert!(graph.push(run(b, 0, 5, vec![id(a, 0)])).is_err(), "lamport of the parent");
    assert!(graph.push(run(b, 0, 6, vec![id(a, 1)])).is_err(), "unknown parent");
    assert!(graph.push(run(b, 0, MAX_CLOCK + 1, vec![])).is_err(), "clock");
    assert!(graph.push(run(b, 0, 9, vec![id(b, 0)])).is_err(), "its own parent");
    assert_eq!(graph.frontier(), [id(a, 0)]);
    assert!(difference(&mut &graph, &[id(b, 0)], &[]).is_err(), "unknown head");

    struct Circle;
    impl Runs for Circle {
        fn run_at(&mut self, id: LocalId) -> Result<Option<RunHead>> {
            let next = LocalId { peer: PeerIdx(1 - id.peer.0), counter: 0 };
            Ok(Some(RunHead { peer: id.peer, counter_start: 0, len: 1, lamport_start: 7, deps: vec![next] }))
        }
    }
    assert!(difference(&mut Circle, &[id(a, 0)], &[]).is_err(), "a circle");
}
