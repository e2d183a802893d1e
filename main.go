// Command e4go is ext4 in user space: it inspects, explains and mounts ext2,
// ext3 and ext4 file systems. "e4go help" lists what it can do.
package main

import (
	"os"

	"e4go/commands"
)

func main() { os.Exit(commands.Main()) }
