//! What a power cut takes and what it leaves, before anything relies on it.

use super::*;
use crate::storage::disk::DiskFile;

const DIR: &str = "/node";
const KEEP_NOTHING: Survival = Survival(0.0);

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A file that is on disk with these bytes.
fn with_file(seed: u64, name: &str, bytes: &[u8]) -> (SimulatedDisk, Arc<dyn DiskFile>) {
    let disk = SimulatedDisk::new(DIR, seed);
    let mount = disk.mount();
    let file = mount.create(&path(name)).unwrap();
    file.write_all_at(0, bytes).unwrap();
    file.sync().unwrap();
    mount.sync_dir(Path::new(DIR)).unwrap();
    (disk, file)
}

fn cut_keeping_nothing(disk: &SimulatedDisk) {
    disk.lock().cut_with(None, KEEP_NOTHING);
    disk.restore_power();
}

fn cut(disk: &SimulatedDisk) -> PowerCut {
    disk.cut_power();
    disk.restore_power().unwrap()
}

#[test]
fn what_was_synced_survives_every_cut() {
    for seed in 0..50 {
        let (disk, _) = with_file(seed, "a", &[7; 3000]);
        cut(&disk);
        assert_eq!(disk.read_file(&path("a")).unwrap(), [7; 3000]);
    }
}

#[test]
fn each_sector_that_was_not_synced_is_old_or_new_and_both_happen() {
    let mut mixed = 0;
    for seed in 0..50 {
        let (disk, file) = with_file(seed, "a", &[1; 8 * SECTOR]);
        file.write_all_at(100, &[2; 8 * SECTOR - 200]).unwrap();
        cut(&disk);
        let bytes = disk.read_file(&path("a")).unwrap();
        let new = bytes.chunks(SECTOR).filter(|sector| sector[SECTOR / 2] == 2).count();
        for sector in bytes.chunks(SECTOR) {
            let middle = &sector[100..SECTOR - 100];
            assert!(middle.iter().all(|byte| *byte == middle[0]), "a sector is never torn");
        }
        assert_eq!((bytes[0], bytes[8 * SECTOR - 1]), (1, 1), "what was not written stays");
        mixed += u32::from((1..8).contains(&new));
    }
    assert!(mixed > 5, "{mixed} of 50 cuts tore the write");
}

#[test]
fn overwritten_sector_may_be_on_disk_as_any_write_left_it() {
    let mut seen = [0; 4];
    for seed in 0..200 {
        let (disk, file) = with_file(seed, "a", &[0; SECTOR]);
        for version in 1..4 {
            file.write_all_at(0, &[version; SECTOR]).unwrap();
        }
        cut(&disk);
        seen[usize::from(disk.read_file(&path("a")).unwrap()[0])] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn names_need_a_sync_of_their_directory() {
    let (disk, _) = with_file(1, "old", b"old");
    let mount = disk.mount();
    let new = mount.create(&path("new")).unwrap();
    new.write_all_at(0, b"new").unwrap();
    new.sync().unwrap();
    cut_keeping_nothing(&disk);
    assert!(!disk.mount().exists(&path("new")).unwrap(), "its content was synced, its name was not");

    let mount = disk.mount();
    mount.rename(&path("old"), &path("renamed")).unwrap();
    cut_keeping_nothing(&disk);
    assert!(disk.mount().exists(&path("old")).unwrap());

    let mount = disk.mount();
    mount.rename(&path("old"), &path("renamed")).unwrap();
    mount.sync_dir(Path::new(DIR)).unwrap();
    mount.remove(&path("renamed")).unwrap();
    assert!(!mount.exists(&path("renamed")).unwrap());
    cut_keeping_nothing(&disk);
    assert_eq!(disk.read_file(&path("renamed")).unwrap(), b"old");
}

#[test]
fn name_that_is_on_disk_before_the_content_shows_an_empty_file() {
    let (disk, _) = with_file(1, "a", b"old");
    let mount = disk.mount();
    let new = mount.create(&path("new")).unwrap();
    new.write_all_at(0, &[9; 2000]).unwrap();
    mount.rename(&path("new"), &path("a")).unwrap();
    mount.sync_dir(Path::new(DIR)).unwrap();
    cut_keeping_nothing(&disk);
    assert_eq!(disk.read_file(&path("a")).unwrap(), b"");
}

#[test]
fn lost_directory_takes_its_files_along() {
    let disk = SimulatedDisk::new(DIR, 1);
    let mount = disk.mount();
    mount.create_dir_all(&path("sub/sub")).unwrap();
    let file = mount.create(&path("sub/sub/a")).unwrap();
    file.sync().unwrap();
    mount.sync_dir(&path("sub/sub")).unwrap();
    mount.sync_dir(&path("sub")).unwrap();
    cut_keeping_nothing(&disk);
    assert!(!disk.mount().exists(&path("sub")).unwrap());
    assert!(!disk.mount().exists(&path("sub/sub/a")).unwrap());
}

#[test]
fn shorter_file_is_long_again_with_all_it_held_or_stays_short() {
    let mut lengths = [0, 0];
    for seed in 0..60 {
        let (disk, _) = with_file(seed, "a", &[5; 4000]);
        let file = disk.mount().open_database(&path("a")).unwrap();
        file.set_len(1000).unwrap();
        file.set_len(3000).unwrap();
        file.write(2500, &[6; 500]).unwrap();
        cut(&disk);
        let bytes = disk.read_file(&path("a")).unwrap();
        match bytes.len() {
            4000 => {
                assert!(bytes.iter().all(|byte| *byte == 5), "writes behind a cut-off end come after it");
                lengths[0] += 1;
            }
            1000 => assert!(bytes.iter().all(|byte| *byte == 5)),
            3000 => {
                assert!(bytes[1024..2048].iter().all(|byte| *byte == 0), "cut off bytes never come back");
                lengths[1] += 1;
            }
            other => panic!("the file never had {other} bytes"),
        }
    }
    assert!(lengths.iter().all(|count| *count > 0), "{lengths:?}");
}

#[test]
fn failed_sync_loses_its_writes_for_good() {
    let mut lost = 0;
    for seed in 0..40 {
        let (disk, file) = with_file(seed, "a", &[1; SECTOR]);
        file.write_all_at(0, &[2; SECTOR]).unwrap();
        disk.fail_at(1);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        let mut read = [0; SECTOR];
        file.read_exact_at(0, &mut read).unwrap();
        assert_eq!(read, [2; SECTOR], "the page cache has it");
        cut(&disk);
        lost += usize::from(disk.read_file(&path("a")).unwrap() == [1; SECTOR]);
    }
    assert!((1..40).contains(&lost), "{lost} of 40");
}

#[test]
fn full_disk_takes_overwrites_and_frees_what_is_removed() {
    let (disk, file) = with_file(1, "a", &[1; 2 * BLOCK]);
    disk.set_capacity(Some(3 * BLOCK as u64));
    let error = file.write_all_at(2 * BLOCK as u64, &[2; 2 * BLOCK]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    file.write_all_at(0, &[3; BLOCK]).unwrap();
    let other = disk.mount().create(&path("b")).unwrap();
    assert!(other.write_all_at(0, b"x").is_err());
    disk.mount().remove(&path("a")).unwrap();
    assert!(other.write_all_at(0, b"x").is_err(), "it is open, and its removal is not on disk");
    drop(file);
    disk.mount().sync_dir(Path::new(DIR)).unwrap();
    other.write_all_at(0, b"x").unwrap();
}

#[test]
fn cut_comes_at_the_operation_it_was_set_for_and_ends_all_that_is_open() {
    let (disk, file) = with_file(1, "a", b"1");
    let mount = disk.mount();
    disk.cut_power_at(2);
    file.write_all_at(0, b"2").unwrap();
    assert!(file.sync().is_err());
    assert!(!disk.is_on());
    let mut read = [0];
    assert!(file.read_at(0, &mut read).is_err() && disk.mount().list(Path::new(DIR)).is_err());
    let cut = disk.restore_power().unwrap();
    assert_eq!(cut.during, Some((Operation::Sync, path("a"))));
    assert_eq!(cut.sectors.kept + cut.sectors.lost, 1);
    assert!(file.read_at(0, &mut read).is_err() && mount.list(Path::new(DIR)).is_err());
    disk.mount().open(&path("a")).unwrap().read_exact_at(0, &mut read).unwrap();
}

#[test]
fn killed_process_loses_its_files_and_the_disk_loses_nothing() {
    let (disk, file) = with_file(1, "a", b"1");
    file.write_all_at(0, b"2").unwrap();
    let mount = disk.mount();
    disk.kill_process();
    assert!(file.write_all_at(0, b"3").is_err() && mount.exists(&path("a")).is_err());
    assert_eq!(disk.read_file(&path("a")).unwrap(), b"2");
}

#[test]
fn held_sync_ends_when_it_is_released_or_the_power_fails() {
    for released in [true, false] {
        let (disk, file) = with_file(1, "a", b"1");
        disk.hold_syncs("a");
        file.write_all_at(0, b"2").unwrap();
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| file.sync());
            assert!(disk.wait_for_held_sync());
            if released {
                disk.release_syncs();
            } else {
                disk.cut_power();
            }
            assert_eq!(sync.join().unwrap().is_ok(), released);
        });
    }
}

#[test]
fn same_seed_and_calls_give_the_same_disk() {
    let run = |seed| {
        let (disk, file) = with_file(seed, "a", &[1; 64 * SECTOR]);
        for round in 2..6_u8 {
            file.write_all_at(u64::from(round) * 700, &[round; 9 * SECTOR]).unwrap();
        }
        (cut(&disk), disk.read_file(&path("a")).unwrap())
    };
    let runs: Vec<_> = (0..20).map(run).collect();
    assert_eq!(runs, (0..20).map(run).collect::<Vec<_>>());
    assert!(runs.iter().any(|other| *other != runs[0]), "chance depends on the seed");
}

const SECTOR: usize = image::SECTOR_BYTES;
const BLOCK: usize = image::BLOCK_BYTES;

#[test]
fn a_disk_that_delays_puts_later_sectors_on_disk_before_earlier_ones() {
    let disk = SimulatedDisk::new("/d", 1);
    let mount = disk.mount();
    let path = Path::new("/d/a");
    let file = mount.create(path).unwrap();
    file.write_all_at(0, &[1; 40 * 512]).unwrap();
    file.sync().unwrap();
    mount.sync_dir(Path::new("/d")).unwrap();
    disk.delay_operations();
    (0..40).for_each(|sector| file.write_all_at(sector * 512, &[2; 512]).unwrap());
    let survivors = disk.after_power_cut().read_file(path).unwrap();
    let is_new: Vec<bool> = survivors.chunks(512).map(|sector| sector == [2; 512]).collect();
    assert!(survivors.iter().all(|byte| [1, 2].contains(byte)));
    assert!(is_new.windows(2).any(|pair| pair == [false, true]), "{is_new:?}");
    let Disorder { delays, inversions } = disk.disorder();
    assert!(delays > 0 && inversions > 0, "{:?}", disk.disorder());
    file.sync().unwrap();
    assert_eq!(disk.after_power_cut().read_file(path).unwrap(), [2; 40 * 512]);
}
