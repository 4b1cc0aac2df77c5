package latest

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// network are the types of file systems on which neither locks nor syncs mean what they say.
var network = map[uint32]string{
	0x6969:     "NFS",
	0x517b:     "SMB",
	0xff534d42: "CIFS",
	0xfe534d42: "SMB2",
	0x5346414f: "AFS",
	0x564c:     "NCP",
	0x73757245: "Coda",
}

// refuseNetwork says whether dir lies on a network file system.
func refuseNetwork(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if name, ok := network[uint32(st.Type)]; ok {
		return fmt.Errorf("%s lies on %s: locks and syncs cannot be relied on there; choose a local disk", dir, name)
	}
	return nil
}
