package commands
import ("testing";"bytes";"context";"os";"strings";"time";"math/rand/v2";"e4go/fixtures";"runtime/pprof";"fmt")
func TestZZ(t *testing.T){
 tour:=fixtures.Tour()
 lines := []string{
		"info --groups", "ls -lR", "stat 2 8 12 16 17 18 19", "dumpextents --all --check", "dumpextents 16 17 18",
		"fiemap --holes 16", "fiemap --xattr 19", "iomap-probe --walk 16 0", "cat --range 0:1m 16",
	}
 rng:=rand.New(rand.NewPCG(9,8))
 for n:=range 1500 {
  img:=bytes.Clone(tour)
  at:=[]int{0x400,0x438,0x460,0x800,7*1024,8*1024,9*1024,10*1024,1563*1024,1593*1024,1594*1024,1596*1024}[rng.IntN(12)]+rng.IntN(1024)
  mode:=rng.IntN(3); v:=byte(rng.UintN(256)); for k:=range 1+rng.IntN(1500){ switch mode { case 0: img[at+k]=v; case 1: img[at+k]=byte(rng.UintN(256)); case 2: if k%4==0 { img[at+k]^=byte(1<<rng.UintN(8)) } } }
  os.WriteFile("/tmp/cli-zz.img",img,0o600)
  for _,l:=range lines { for _,m:=range []string{"","--no-recovery"}{
   ctx,cancel:=context.WithTimeout(context.Background(),8*time.Second)
   start:=time.Now()
   var o,e bytes.Buffer
   done:=make(chan int)
   go func(){ run(ctx, strings.Fields("e4go -i /tmp/cli-zz.img "+l+" "+m), &o,&e); close(done)}()
   select{ case <-done: case <-time.After(3*time.Second):
     fmt.Println("SLOW",n,at,l,m); pprof.Lookup("goroutine").WriteTo(os.Stdout,1); os.WriteFile("/tmp/cli-slow.img",img,0o600); t.FailNow() }
   cancel()
   if d:=time.Since(start); d>time.Second { fmt.Println("slow",d,l,m,at) }
  }}
 }
}
