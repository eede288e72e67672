from csra_lab.cli import main

main()
