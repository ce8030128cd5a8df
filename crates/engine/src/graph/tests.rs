use super::oracle::RandomGraph;
use super::*;
use crate::testkit::{Rng, seeds};

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
        assert_eq!(events_since(&mut graph, &a, &b).unwrap(), random.difference(&a, &b).only_a, "{a:?} since {b:?}");
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
    for seed in seeds(30_000) {
        std::panic::catch_unwind(|| check_one(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

#[test]
fn a_graph_tells_what_it_was_told() {
    let mut graph = Graph::new();
    assert_eq!((graph.max_lamport(), graph.frontier()), (0, &[][..]));
    let (b, a) = (graph.peer("b"), graph.peer("a"));
    assert_eq!((graph.peer("b"), graph.peer("a")), (b, a));
    assert_eq!(graph.peers().collect::<Vec<_>>(), [(b, "b"), (a, "a")]);
    assert_eq!((graph.find_peer("a"), graph.find_peer("c")), (Some(a), None));
    assert_eq!((graph.next_counter(a), graph.next_counter(PeerIdx(2))), (0, 0));
    let id = |peer, counter| LocalId { peer, counter };
    let run = |peer, counter_start, len, lamport_start, deps| RunHead { peer, counter_start, len, lamport_start, deps };
    graph.push(run(a, 0, 3, 4, vec![])).unwrap();
    graph.push(run(b, 0, 2, 9, vec![id(a, 1)])).unwrap();
    assert_eq!(graph.frontier(), [id(b, 1), id(a, 2)], "a's tip was not named");
    assert_eq!((graph.next_counter(a), graph.next_counter(b), graph.max_lamport()), (3, 2, 10));
    assert_eq!([0, 1, 2, 3].map(|counter| graph.lamport(id(a, counter))), [Some(4), Some(5), Some(6), None]);
    assert_eq!((graph.lamport(id(b, 1)), graph.lamport(id(PeerIdx(2), 0))), (Some(10), None));
    assert_eq!(graph.global(id(a, 2)), EventId::new("a", 2));
    assert_eq!(graph.local(&EventId::new("b", 7)), Some(id(b, 7)), "it need not be known");
    assert_eq!(graph.local(&EventId::new("c", 0)), None);
    assert_eq!((&graph).run_at(id(a, 2)).unwrap(), Some(run(a, 0, 3, 4, vec![])));
    assert_eq!((&graph).run_at(id(a, 3)).unwrap(), None);
    graph.push(run(a, 3, 1, 7, vec![])).unwrap();
    assert_eq!(graph.max_lamport(), 10, "the greatest is another's");
    graph.check();
}

#[test]
fn runs_that_follow_each_other_are_one() {
    let id = |peer, counter| LocalId { peer, counter };
    // Lamport and deps of a's second run, and whether it goes on with the first.
    for (lamport, own, other, one) in [
        (9, false, false, true),
        (9, true, false, true),
        (10, false, false, false),
        (9, false, true, false),
        (9, true, true, false),
    ] {
        let mut graph = Graph::new();
        let (a, b) = (graph.peer("a"), graph.peer("b"));
        let run =
            |peer, counter_start, len, lamport_start, deps| RunHead { peer, counter_start, len, lamport_start, deps };
        graph.push(run(b, 0, 4, 0, vec![])).unwrap();
        graph.push(run(a, 0, 4, 5, vec![])).unwrap();
        let deps: Vec<_> = own.then_some(id(a, 3)).into_iter().chain(other.then_some(id(b, 3))).collect();
        let second = run(a, 4, 3, lamport, deps);
        graph.push(second.clone()).unwrap();
        let right = if one { vec![run(a, 0, 7, 5, vec![])] } else { vec![run(a, 0, 4, 5, vec![]), second] };
        assert_eq!(graph.runs_of(a), right);
        assert_eq!(graph.runs_of(b).len(), 1);
        assert!(graph.runs_of(PeerIdx(2)).is_empty());
        graph.check();
    }
}

#[test]
fn check_sees_what_does_not_fit() {
    let sound = |graph: &Graph| std::panic::catch_unwind(|| graph.check()).is_ok();
    let (graph, _) = ladder(4);
    assert!(sound(&graph));
    let broken: [fn(&mut Graph); 7] = [
        |graph| graph.heads.truncate(1),
        |graph| graph.heads.reverse(),
        |graph| graph.names.push("c".into()),
        |graph| graph.names.swap(0, 1),
        |graph| graph.runs[0][1].counter_start += 1,
        |graph| graph.runs[0][1].lamport_start = 0,
        |graph| {
            // Cut where nothing came in between.
            let mut rest = graph.runs[0][0].clone();
            (rest.counter_start, rest.lamport_start, rest.len) = (1, 1, 2);
            graph.runs[0][0].len = 1;
            graph.runs[0].insert(1, rest);
        },
    ];
    for (nth, damage) in broken.iter().enumerate() {
        let mut graph = graph.clone();
        damage(&mut graph);
        assert!(!sound(&graph), "damage {nth}");
    }
}

#[test]
fn relations_have_names() {
    use Relation::{After, Before, Concurrent, Equal};
    assert_eq!([Before, After, Equal, Concurrent].map(Relation::as_str), ["before", "after", "equal", "concurrent"]);
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

/// An event that both versions hold may lead back to a peer of whom one was found to hold more.
#[test]
fn a_common_event_shrinks_the_difference() {
    let mut graph = Graph::new();
    let (p, q) = (graph.peer("p"), graph.peer("q"));
    let id = |peer, counter| LocalId { peer, counter };
    let run = |peer, counter_start, len, lamport_start, deps| RunHead { peer, counter_start, len, lamport_start, deps };
    graph.push(run(p, 0, 10, 0, vec![])).unwrap();
    graph.push(run(q, 0, 1, 4, vec![id(p, 3)])).unwrap();
    graph.push(run(q, 1, 1, 10, vec![id(p, 9)])).unwrap();
    let only = [Span { peer: p, from: 4, to: 10 }, Span { peer: q, from: 1, to: 2 }];
    assert_eq!(events_since(&mut &graph, &[id(q, 1)], &[id(q, 0)]).unwrap(), only);
    assert_eq!(lca(&mut &graph, &[id(q, 1)], &[id(q, 0)]).unwrap(), [id(q, 0)]);
}

#[test]
fn heads_are_found_without_walking_below_the_least() {
    let (graph, [a, b]) = ladder(100);
    let mut counted = Counted(&graph, 0);
    assert_eq!(heads_of(&mut counted, &[a, b]).unwrap(), [a, b]);
    assert_eq!(counted.1, 2, "each tip, and nothing below");
    let mut counted = Counted(&graph, 0);
    assert_eq!(heads_of(&mut counted, &[a]).unwrap(), [a]);
    assert_eq!(counted.1, 0, "a lone event is its version's head");
}

#[test]
fn garbage_is_an_error() {
    let mut graph = Graph::new();
    let (a, b) = (graph.peer("a"), graph.peer("b"));
    let id = |peer, counter| LocalId { peer, counter };
    let run = |peer, counter_start, lamport_start, deps| RunHead { peer, counter_start, len: 1, lamport_start, deps };
    graph.push(run(a, 0, 5, vec![])).unwrap();
    let follows = "a run that does not follow its peer's previous one";
    let (clock, older) = ("a clock beyond 2^53-1", "a lamport not above its parents'");
    for (broken, why) in [
        (run(a, 2, 9, vec![]), follows),
        (run(a, 0, 9, vec![]), follows),
        (RunHead { len: 0, ..run(b, 0, 9, vec![]) }, follows),
        (run(b, 0, MAX_CLOCK + 1, vec![]), clock),
        (RunHead { len: 2, ..run(b, 0, MAX_CLOCK, vec![]) }, clock),
        (run(b, 0, u64::MAX, vec![]), clock),
        (RunHead { len: MAX_CLOCK + 2, ..run(b, 0, 0, vec![]) }, clock),
        (RunHead { len: u64::MAX, ..run(a, 1, 6, vec![]) }, clock),
        (run(b, 0, 5, vec![id(a, 0)]), older),
        (run(a, 1, 5, vec![]), older),
        (run(b, 0, 6, vec![id(a, 1)]), "a parent that is not known"),
        (run(b, 0, 9, vec![id(b, 0)]), "a parent that is not known"),
    ] {
        let error = graph.push(broken.clone()).unwrap_err();
        assert_eq!(error, Error::BrokenGraph { what: why, peer: broken.peer.0, counter: broken.counter_start });
    }
    assert_eq!((graph.frontier(), graph.max_lamport()), (&[id(a, 0)][..], 5));
    let unknown = Error::BrokenGraph { what: "an event that is not known", peer: b.0, counter: 3 };
    assert_eq!(difference(&mut &graph, &[id(b, 3)], &[]), Err(unknown));
    graph.push(RunHead { len: 2, ..run(b, 0, MAX_CLOCK - 1, vec![]) }).unwrap();
    assert_eq!(graph.max_lamport(), MAX_CLOCK);

    struct Circle;
    impl Runs for Circle {
        fn run_at(&mut self, id: LocalId) -> Result<Option<RunHead>> {
            let next = LocalId { peer: PeerIdx(1 - id.peer.0), counter: 0 };
            Ok(Some(RunHead { peer: id.peer, counter_start: 0, len: 1, lamport_start: 7, deps: vec![next] }))
        }
    }
    let circle = Error::BrokenGraph { what: older, peer: b.0, counter: 0 };
    assert_eq!(difference(&mut Circle, &[id(a, 0)], &[]), Err(circle));
}

#[test]
fn a_store_that_answers_something_else_is_an_error() {
    /// Answers every question with this.
    struct Says(RunHead);
    impl Runs for Says {
        fn run_at(&mut self, _: LocalId) -> Result<Option<RunHead>> {
            Ok(Some(self.0.clone()))
        }
    }
    let run = RunHead { peer: PeerIdx(1), counter_start: 0, len: 9, lamport_start: 3, deps: vec![] };
    let id = LocalId { peer: PeerIdx(1), counter: 4 };
    assert_eq!(version_vector(&mut Says(run.clone()), &[id]).unwrap(), [(PeerIdx(1), 4)].into());
    for wrong in [
        RunHead { peer: PeerIdx(2), ..run.clone() },
        RunHead { counter_start: 5, ..run.clone() },
        RunHead { len: 4, ..run.clone() },
        RunHead { len: 0, ..run.clone() },
        RunHead { len: u64::MAX, counter_start: 2, ..run.clone() },
        RunHead { lamport_start: MAX_CLOCK, ..run },
    ] {
        let what = "a run that does not hold what was asked for";
        let error = Error::BrokenGraph { what, peer: 1, counter: 4 };
        assert_eq!(difference(&mut Says(wrong), &[id], &[]), Err(error));
    }
}
