use std::sync::Arc; use std::time::{Duration, Instant}; use std::num::NonZeroUsize;
use gate_cluster::*; use gate_limit::*; use gate_zone::Zone;
struct Log; impl log::Log for Log { fn enabled(&self,_:&log::Metadata)->bool{true} fn log(&self,r:&log::Record){ if r.level()<=log::Level::Info {eprintln!("{} {}",r.level(),r.args())} } fn flush(&self){} }
fn main(){
  log::set_logger(&Log).unwrap(); log::set_max_level(log::LevelFilter::Info);
  let a: Vec<String>=std::env::args().collect();
  let (_m,zone)=Zone::create(NonZeroUsize::new(1<<14).unwrap(),[std::process::id() as u64,2]).unwrap();
  zone.assign_windows(&[Duration::from_secs(60)],&[]).unwrap();
  let ms: u64 = a[2].parse().unwrap();
  let t=Terms{url:a[1].clone(),password:None,share:0.5,timeout:Duration::from_millis(ms),prefix:"h".into()};
  let rounds: usize = a[3].parse().unwrap();
  tokio::task::LocalSet::new().block_on(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), async {
    let c=Cluster::new(zone,t).unwrap(); let b=Instant::now(); c.connect().await; println!("connect {:?} {:?}", b.elapsed(), c.health());
    let l=Arc::new(Limit{amount:1_000_000,window:Duration::from_secs(60),unit:Duration::from_secs(60),text:"x".into()});
    for r in 0..rounds {
      let s=Subject::of_key(&format!("k{r}"));
      let b=Instant::now(); let got=c.take(&s,3,&l,1).await; let first=b.elapsed();
      println!("{r} {:?} {:?} {:?}", got.map(|p|p.standing.remaining), first, c.health());
      if rounds>1 { tokio::time::sleep(Duration::from_millis(200)).await; }
    }
    let s=Subject::of_key("hot"); let mut times=vec![];
    let n=200000; let b=Instant::now();
    for _ in 0..n { let t=Instant::now(); let p = c.take(&s,3,&l,1).await.unwrap(); times.push(t.elapsed()); let _ = std::hint::black_box(p); }
    let all=b.elapsed(); times.sort(); println!("hot: {:?} each, p50 {:?} p99 {:?} p999 {:?} max {:?}", all/n, times[n as usize/2], times[n as usize*99/100], times[n as usize*999/1000], times[n as usize-1]);
    let mut times=vec![]; for i in 0..3000 { let s=Subject::of_key(&format!("c{i}")); let t=Instant::now(); let _ = c.take(&s,3,&l,1).await.unwrap(); times.push(t.elapsed()); }
    times.sort(); println!("trips: p50 {:?} p99 {:?} max {:?}", times[1500], times[2970], times[2999]);
  });
}
