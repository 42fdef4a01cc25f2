use uuid::Uuid;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    about: Subject,
    name: &'static str,
    is_in_doubt: bool,
}

impl About for Write {
    fn subject(&self) -> Subject {
        self.about.clone()
    }

    fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }
}

fn subject() -> Subject {
    Subject::Saga(SagaId(Uuid::now_v7()))
}

fn write(about: &Subject, name: &'static str) -> Write {
    Write { about: about.clone(), name, is_in_doubt: false }
}

fn names(turn: &Turn<Write>) -> Vec<&'static str> {
    turn.next.iter().map(|waiting| waiting.request.name).collect()
}

/// Refuses whatever has a turn until nothing untried waits; each turn takes this long.
fn refuse_all(aside: &mut Aside<Write>, now: &mut Instant, turn: Duration) {
    while !aside.untried.is_empty() {
        let tried = aside.take(*now).next;
        *now += turn;
        aside.put_back(tried, *now);
    }
}

#[test]
fn a_subject_is_with_the_lane_once_and_the_others_go_on() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let (one, other) = (subject(), subject());
    aside.put([write(&one, "first"), write(&one, "second")], now);
    let first = aside.take(now);
    assert_eq!((names(&first), aside.len()), (vec!["first"], 1));
    assert!(aside.take(now).is_empty(), "its subject is at work");
    aside.put([write(&other, "other")], now);
    assert_eq!(names(&aside.take(now)), ["other"]);
    aside.settle(std::slice::from_ref(&one));
    assert_eq!(names(&aside.take(now)), ["second"]);
    aside.settle(&[one.clone(), other]);
    assert!(!aside.concerns(&write(&one, "third")), "what was written is forgotten");
    assert_eq!((aside.len(), aside.due()), (0, None));
}

#[test]
fn one_that_is_locked_costs_its_neighbours_a_few_turns() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let locked = subject();
    let batch = (0..255).map(|_| write(&subject(), "free")).chain([write(&locked, "locked")]);
    aside.put(batch, now);
    let (mut turns, mut written) = (0, 0);
    while written < 255 {
        let tried = aside.take(now).next;
        turns += 1;
        if tried.iter().any(|waiting| waiting.request.about == locked) {
            aside.put_back(tried, now);
        } else {
            written += tried.len();
            aside.settle(&tried.iter().map(|waiting| waiting.request.subject()).collect::<Vec<_>>());
        }
    }
    assert!(turns <= 16, "{turns}");
    assert!(aside.len() == 1 && aside.concerns(&write(&locked, "locked")));
}

#[test]
fn what_was_never_refused_does_not_wait_behind_what_was() {
    let (mut aside, mut now) = (Aside::default(), Instant::now());
    let locked: Vec<_> = (0..60).map(|_| subject()).collect();
    aside.put(locked.iter().map(|subject| write(subject, "locked")), now);
    refuse_all(&mut aside, &mut now, Duration::from_millis(5));
    now += PAUSE_MAX;
    let healthy = subject();
    aside.put([write(&healthy, "healthy")], now);
    assert!((0..2).any(|_| names(&aside.take(now)) == ["healthy"]), "after one turn of another at most");
}

#[test]
fn what_was_refused_has_its_turns_though_others_come_all_the_time() {
    let (mut aside, mut now) = (Aside::default(), Instant::now());
    aside.put([write(&subject(), "locked")], now);
    refuse_all(&mut aside, &mut now, Duration::ZERO);
    now += PAUSE;
    let mut turns = 0;
    loop {
        aside.put([write(&subject(), "new")], now);
        let turn = aside.take(now);
        turns += 1;
        if names(&turn) == ["locked"] {
            break;
        }
        aside.settle(&[turn.next[0].request.subject()]);
    }
    assert!(turns <= TURNS, "{turns}");
}

#[test]
fn a_subject_whose_write_was_given_up_is_remembered_be_it_tried_or_not() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let subjects: Vec<_> = (0..60).map(|_| subject()).collect();
    aside.put(subjects.iter().map(|subject| write(subject, "w")), now);
    let mut late = now;
    for _ in 0..20 {
        let tried = aside.take(late).next;
        late += Duration::from_millis(50);
        aside.put_back(tried, late);
    }
    let over = aside.take(now + PATIENCE).over;
    assert!(over.len() >= 40, "{}", over.len());
    assert!(over.iter().all(|waiting| aside.concerns(&waiting.request)));
    assert!(aside.concerns(&over[0].request), "what comes next joins here");
}

#[test]
fn what_is_refused_is_tried_later_and_later_and_ends() {
    let (mut aside, mut now) = (Aside::default(), Instant::now());
    let (locked, began) = (subject(), now);
    aside.put([write(&locked, "w")], now);
    let mut attempts = 0;
    let over = loop {
        let mut turn = aside.take(now);
        if let Some(tried) = turn.next.first_mut() {
            attempts += 1;
            tried.refusal = Some("locked".to_owned());
            aside.put_back(turn.next, now);
        }
        if let Some(over) = turn.over.pop() {
            break over;
        }
        now = aside.due().expect("it waits");
    };
    assert!(now - began <= PATIENCE + SWEEP && (5..10).contains(&attempts), "{attempts}");
    assert_eq!(over.refusal.as_deref(), Some("locked"));
    // Remembered: the next one comes here, and is tried when the subject is due.
    assert!(aside.concerns(&write(&locked, "next")));
    aside.put([write(&locked, "next")], now);
    assert!(aside.due().expect("it waits") <= now + PAUSE_MAX);
    assert_eq!(names(&aside.take(now + PAUSE_MAX)), ["next"]);
}

#[test]
fn a_subject_of_which_nothing_comes_is_forgotten() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let locked = subject();
    aside.put([write(&locked, "w")], now);
    let tried = aside.take(now).next;
    aside.put_back(tried, now);
    let given_up = now + PATIENCE;
    assert_eq!(aside.take(given_up).over.len(), 1);
    assert!(aside.take(given_up + REMEMBERED / 2).is_empty() && aside.concerns(&write(&locked, "w")));
    assert!(aside.take(given_up + REMEMBERED).is_empty());
    assert!(!aside.concerns(&write(&locked, "w")) && aside.due().is_none());
}

#[test]
fn what_may_have_been_committed_is_never_given_up_nor_tried_with_what_was_not() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let doubtful = Write { is_in_doubt: true, ..write(&subject(), "doubtful") };
    // Four a part: these are one.
    let batch = (0..3)
        .map(|_| write(&subject(), "new"))
        .chain([doubtful])
        .chain((0..12).map(|_| write(&subject(), "new")));
    aside.put(batch, now);
    let mut turns = Vec::new();
    loop {
        let turn = aside.take(now);
        if turn.is_empty() {
            break;
        }
        turns.push(names(&turn));
    }
    assert_eq!(turns.iter().map(Vec::len).collect::<Vec<_>>(), [3, 4, 4, 4, 1], "{turns:?}");
    assert_eq!(turns[4], ["doubtful"]);
    let mut aside = Aside::default();
    aside.put([Write { is_in_doubt: true, ..write(&subject(), "doubtful") }], now);
    let turn = aside.take(now + PATIENCE * 100);
    assert!(turn.over.is_empty() && turn.next.len() == 1);
}

#[test]
fn pauses_double_up_to_the_longest() {
    let pauses = [1, 2, 3, 4, 5, u32::MAX].map(|refusals| pause(refusals).as_millis());
    assert_eq!(pauses, [50, 100, 200, 400, 400, 400]);
}
