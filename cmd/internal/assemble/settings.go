package assemble

import (
	"github.com/tallystick/tallystick/audit/console"
	"github.com/tallystick/tallystick/cmd/internal/config"
)

// settings are what the configuration says, as the console shows it.
func settings(c *config.Config) (all []console.Setting) {
	for _, s := range c.Shown() {
		all = append(all, console.Setting{Name: s.Name, Value: s.Value})
	}
	return all
}
