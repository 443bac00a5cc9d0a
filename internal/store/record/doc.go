// Package record reads rows: the columns and scan functions of repositories, distributions, versions, content units and other
// domain types, and the conditions on versions and visibility that several stores share.
package record
