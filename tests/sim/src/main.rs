fn main() {
    let args: Vec<String> = std::env::args().collect();
    let scenario = aspen_sim::scenario::Scenario::named(&args[1]).expect("scenario");
    let (a, b): (u64, u64) = (args[2].parse().unwrap(), args[3].parse().unwrap());
    for seed in a..b {
        let at = std::time::Instant::now();
        let r = aspen_sim::runner::run(scenario, seed, None);
        println!("{seed} hash {:x} events {} virtual {:?} ops {} wall {:?} {:?}", r.hash, r.events, r.virtual_time, r.operations, at.elapsed(), r.violation);
        if args.len() > 4 { for l in &r.milestones { println!("M {l}"); } for l in &r.last_events { println!("  {l}"); } println!("{:#?}", r.figures); }
    }
}
