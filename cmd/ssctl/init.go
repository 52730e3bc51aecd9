package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ss/api/identity"
	"ss/report"
	"ss/store"
	"ss/store/blob"
	"ss/store/keys"
)

// initOptions is what the one who makes a cluster may choose.
type initOptions struct {
	recovery []string
	vaults   []string
	open     bool
}

func (a *app) initCommand() *cobra.Command {
	var opt initOptions
	cmd := &cobra.Command{
		Use: "init", Short: "Make the cluster's folder: its authority, your admin identity, its keys, its catalogue", Args: args(0, 0),
		Long: "init makes the cluster's folder: its certificate authority, your admin identity, the age identity that opens the keys of all images\n" +
			"(images.key), and the catalogue. Images are encrypted, with a key for each job. Holders of a recovery identity can open them as well, if\n" +
			"the folder is lost: keep it elsewhere. Make one with age-keygen, and give its recipient.",
		RunE: func(*cobra.Command, []string) error {
			if err := checkVaults(opt.vaults); err != nil {
				return err
			}
			for _, r := range opt.recovery {
				if err := keys.CheckRecipient(r); err != nil {
					return usage("--recovery-recipient %s: %v", r, err)
				}
			}
			return a.makeCluster(opt)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&opt.recovery, "recovery-recipient", nil, "age1…: its identity opens all images as well; may be repeated")
	f.StringArrayVar(&opt.vaults, "vault", nil, "URL of a vault that holds a copy of all images: file:///PATH or s3://BUCKET/PREFIX?endpoint=…; may be repeated")
	f.BoolVar(&opt.open, "no-encryption", false, "images are not secret: anyone who has them can read them")
	return cmd
}

func (a *app) makeCluster(opt initOptions) error {
	// The catalogue comes last: where it is, the rest is there as well.
	if _, err := os.Stat(filepath.Join(a.dir, "ca.key")); err == nil {
		return fmt.Errorf("%s holds a cluster already: choose another folder with --dir: %w", a.dir, store.ErrConflict)
	}
	authority, err := identity.CreateAuthority(a.dir)
	if err != nil {
		return err
	}
	admin, err := authority.Issue(identity.RoleAdmin, "admin")
	if err != nil {
		return err
	}
	if err := admin.Write(a.dir, "admin"); err != nil {
		return err
	}
	recipient, err := makeIdentity(filepath.Join(a.dir, imagesKey))
	if err != nil {
		return err
	}
	cat, err := store.Create(a.dir, store.Cluster{ID: authority.Cluster(), Recipients: append([]string{recipient}, opt.recovery...), Vaults: opt.vaults, Open: opt.open})
	if err != nil {
		return err
	}
	defer cat.Close()
	doc := report.Cluster{Schema: "ss/init/1", Cluster: authority.Cluster(), Dir: a.dir, Recipients: append([]string{recipient}, opt.recovery...),
		Vaults: some(opt.vaults), Encrypted: !opt.open}
	advice := "its images.key opens all images"
	if len(opt.recovery) > 0 {
		advice += ", as do the recovery identities"
	}
	if opt.open {
		advice = "images are not encrypted"
	}
	return a.say(doc, "cluster %s is in %s: keep that folder safe, it holds the cluster's keys; %s\nnext: ssctl host add NAME --addr IP:7070 --bundle DIR, for each host\n",
		authority.Cluster(), a.dir, advice)
}

// checkVaults refuses what is not a vault's URL.
func checkVaults(urls []string) error {
	for _, u := range urls {
		if err := blob.CheckURL(u); err != nil {
			return usage("--vault %s: %v", u, err)
		}
	}
	return nil
}
