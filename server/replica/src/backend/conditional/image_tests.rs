use proptest::prelude::*;

use super::*;

fn value(bytes: &str) -> Bytes {
    Bytes::copy_from_slice(bytes.as_bytes())
}

fn cell(bytes: &str, lasting: bool) -> Option<Cell> {
    Some(Cell { value: value(bytes), lasting })
}

fn image(exists: Option<bool>, cells: &[(&str, Option<Cell>)]) -> Image {
    Image { exists, cells: cells.iter().map(|(name, cell)| ((*name).into(), cell.clone())).collect() }
}

fn equal(columns: &[(&str, &str)]) -> Asked {
    Asked::Equal(columns.iter().map(|(name, bytes)| ((*name).into(), value(bytes))).collect())
}

#[test]
fn a_condition_holds_only_by_what_is_known() {
    let row = image(Some(true), &[("a", cell("1", true)), ("b", cell("2", false)), ("n", None)]);
    let gone = image(Some(false), &[]);
    for (image, asked, expected) in [
        (&row, Asked::Exists, Some(true)),
        (&row, Asked::NotExists, Some(false)),
        (&gone, Asked::NotExists, Some(true)),
        (&gone, Asked::Exists, Some(false)),
        (&Image::default(), Asked::NotExists, None),
        (&Image::default(), Asked::Exists, None),
        (&row, equal(&[("a", "1"), ("b", "2")]), Some(true)),
        (&row, equal(&[("a", "1"), ("b", "3")]), Some(false)),
        (&row, equal(&[("n", "1")]), Some(false)),
        (&row, equal(&[("a", "1"), ("c", "1")]), None),
        (&gone, equal(&[("a", "1")]), None),
    ] {
        assert_eq!(image.holds(&asked), expected, "{image:?} {asked:?}");
    }
}

#[test]
fn only_what_is_seen_to_last_is_known_later() {
    let row = || image(Some(true), &[("a", cell("1", true)), ("b", cell("2", false)), ("n", None)]);
    let set = |columns: &[(&str, Option<&str>)]| {
        Effect::Cells(columns.iter().map(|(name, bytes)| ((*name).into(), bytes.map(value))).collect())
    };
    assert_eq!(row().lasting(), image(Some(true), &[("a", cell("1", true))]));
    assert_eq!(row().after(&Effect::Row), Image::default());
    // What a write to b or n shows, a deletion or a cell of the future may decide.
    let written = set(&[("a", Some("5")), ("b", Some("6")), ("n", Some("7")), ("other", Some("8"))]);
    assert_eq!(row().after(&written), image(Some(true), &[("a", cell("5", true))]));
    assert_eq!(row().after(&set(&[("b", Some("6"))])), image(Some(true), &[("a", cell("1", true))]));
    assert_eq!(row().after(&set(&[("a", None)])), Image::default(), "the row may be gone with its last cell");
    assert_eq!(image(Some(false), &[]).lasting(), Image::default());
}

fn key(table: &str, partition: &str) -> Lanes {
    let mut lanes = Lanes::none();
    lanes.add_key("ks", table, partition.as_bytes());
    lanes
}

fn row(table: &str, partition: &str, clustering: &str) -> Row {
    let lane = key(table, partition).written().next().expect("one lane");
    (lane, value(&format!("{table}/{partition}/{clustering}")))
}

fn known() -> Image {
    image(Some(true), &[("a", cell("1", true))])
}

#[test]
fn what_a_record_may_change_is_forgotten() {
    let rows = [row("t", "1", "1"), row("t", "1", "2"), row("t", "2", "1"), row("u", "1", "1")];
    let mut table = Lanes::none();
    table.add_table("ks", "t");
    let mut both = key("t", "2");
    both.add_key("ks", "u", b"1");
    for (lanes, left) in [
        (key("t", "1"), vec![2, 3]),
        (both, vec![0, 1]),
        (table, vec![3]),
        (Lanes::all(), vec![]),
        (Lanes::none(), vec![0, 1, 2, 3]),
        (key("t", "9"), vec![0, 1, 2, 3]),
    ] {
        let mut images = Images::default();
        rows.iter().for_each(|row| images.keep(row.clone(), known()));
        images.forget(&lanes);
        assert_eq!(images.is_empty(), left.is_empty());
        for (number, row) in rows.iter().enumerate() {
            assert_eq!(images.take(row).is_some(), left.contains(&number), "{lanes:?} {number}");
        }
        assert!(images.is_empty() && images.ages.is_empty() && images.bytes == 0);
    }
}

#[test]
fn images_are_bounded_and_the_oldest_goes() {
    let mut images = Images::default();
    let of = |number: usize| row("t", &number.to_string(), "");
    (0..=ROWS).for_each(|number| images.keep(of(number), known()));
    assert_eq!(images.rows.len(), ROWS);
    assert!(images.take(&of(0)).is_none() && images.take(&of(1)).is_some());
    let large = Image {
        cells: BTreeMap::from([("a".into(), Some(Cell { value: vec![0; BYTES - 1000].into(), lasting: true }))]),
        exists: None,
    };
    images.keep(of(7), large);
    assert!(images.bytes <= BYTES && images.take(&of(7)).is_some() && images.take(&of(8)).is_none());
    let larger = Image {
        cells: BTreeMap::from([("a".into(), Some(Cell { value: vec![0; BYTES].into(), lasting: true }))]),
        exists: None,
    };
    images.keep(of(9), larger);
    assert!(images.is_empty());
    images.keep(of(1), Image::default());
    assert!(images.is_empty(), "nothing is known");
}

#[test]
fn images_keep_nothing_beside_what_they_count() {
    let entry = Bytes::from(vec![7; 1 << 20]);
    let cells = BTreeMap::from([("a".into(), Some(Cell { value: entry.slice(10..14), lasting: true }))]);
    let mut images = Images::default();
    images.keep(row("t", "1", ""), Image { cells, exists: Some(true) });
    let mut kept = images.take(&row("t", "1", "")).expect("just kept");
    let cell = kept.cells.remove("a").flatten().expect("a cell");
    assert_eq!(cell.value.as_ref(), [7; 4]);
    assert!(!entry.as_ptr_range().contains(&cell.value.as_ptr()), "it is a part of the entry");
}

#[derive(Debug, Clone)]
enum Step {
    Keep(u8, u8),
    Take(u8, u8),
    Forget(u8),
    ForgetTable,
}

proptest! {
    /// The bookkeeping agrees with itself, and an image is there only if it was put there after all that forgot it.
    #[test]
    fn images_are_those_of_a_map(steps in prop::collection::vec(prop_oneof![
        (0..4u8, 0..3u8).prop_map(|(partition, row)| Step::Keep(partition, row)),
        (0..4u8, 0..3u8).prop_map(|(partition, row)| Step::Take(partition, row)),
        (0..4u8).prop_map(Step::Forget),
        Just(Step::ForgetTable),
    ], 0..60)) {
        let name = |partition: u8| partition.to_string();
        let mut images = Images::default();
        let mut model: BTreeSet<(u8, u8)> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Keep(partition, of) => {
                    images.keep(row("t", &name(partition), &of.to_string()), known());
                    model.insert((partition, of));
                }
                Step::Take(partition, of) => {
                    let there = images.take(&row("t", &name(partition), &of.to_string())).is_some();
                    prop_assert_eq!(there, model.remove(&(partition, of)));
                }
                Step::Forget(partition) => {
                    images.forget(&key("t", &name(partition)));
                    model.retain(|(other, _)| *other != partition);
                }
                Step::ForgetTable => {
                    let mut table = Lanes::none();
                    table.add_table("ks", "t");
                    images.forget(&table);
                    model.clear();
                }
            }
            prop_assert_eq!(images.rows.len(), model.len());
            prop_assert_eq!(images.ages.len(), model.len());
            prop_assert_eq!(images.bytes == 0, model.is_empty());
        }
    }
}
